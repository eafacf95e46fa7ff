//! Masks, pages and quantised rows through every table entry that serves them, each trap by name.
//! What no row sees is NaN, in the keys and values alike; outputs are poisoned.

use super::{Random, entries, run_entry};
use crate::abi::*;
use crate::cpu::table::Row;
use crate::error::Status;
use crate::problem::{self, Check};
use crate::reference::{Attention, Cache, Elements, Mask, MaskKind, Pages, Quant, Tensor};

const BATCH: usize = 2;
const Q_LEN: usize = 6;
const KV_LEN: usize = 41;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 32;
const PAGE: usize = 8;
const PAGES: usize = 16;
/// Pages of a sequence.
const ENTRIES: usize = KV_LEN.div_ceil(PAGE);

/// Memory of a problem over a paged cache, and how the oracle sees it.
struct Problem {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    output: Vec<f32>,
    table: Vec<i32>,
    value_table: Vec<i32>,
    kv_lens: Vec<i32>,
}

impl Problem {
    /// Sequence 0 has 41 keys and sequence 1 has 17; pages lie in any order, the values' elsewhere,
    /// and of a page beyond a sequence's keys there is none.
    fn new() -> Self {
        let mut random = Random(3);
        let mut floats = |count: usize| (0..count).map(|_| random.normal()).collect::<Vec<f32>>();
        let cache = PAGES * PAGE * KV_HEADS * DIM;
        let mut p = Self {
            query: floats(BATCH * Q_LEN * HEADS * DIM),
            key: floats(cache),
            value: floats(cache),
            output: vec![f32::NAN; BATCH * Q_LEN * HEADS * DIM],
            table: vec![9, 3, 14, 0, 7, 5, 2, 11, 4, -1, -1, i32::MAX],
            value_table: vec![1, 15, 6, 8, 10, 12, 0, 13, 3, -1, -7, -1],
            kv_lens: vec![41, 17],
        };
        for (table, data) in [(&p.table, &mut p.key), (&p.value_table, &mut p.value)] {
            let mut seen = [false; PAGES * PAGE];
            for (sequence, len) in p.kv_lens.iter().enumerate() {
                for key in 0..*len as usize {
                    seen[table[sequence * ENTRIES + key / PAGE] as usize * PAGE + key % PAGE] =
                        true;
                }
            }
            for (row, data) in data.chunks_mut(KV_HEADS * DIM).enumerate() {
                if !seen[row] {
                    data.fill(f32::NAN);
                }
            }
        }
        p
    }

    fn desc(&mut self) -> kfa_attention_desc {
        fn view<T>(data: &mut [T]) -> kfa_tensor_view {
            kfa_tensor_view { data: data.as_mut_ptr().cast(), ..crate::abi::NO_VIEW }
        }
        kfa_attention_desc {
            batch: BATCH as i32,
            q_len: Q_LEN as i32,
            kv_len: KV_LEN as i32,
            heads: HEADS as i32,
            kv_heads: KV_HEADS as i32,
            head_dim: DIM as i32,
            query: view(&mut self.query),
            key: view(&mut self.key),
            value: view(&mut self.value),
            output: view(&mut self.output),
            kv_lens: self.kv_lens.as_ptr(),
            page_table: self.table.as_ptr(),
            value_page_table: self.value_table.as_ptr(),
            page_size: PAGE as i32,
            pages: PAGES as i32,
            ..DEFAULT_DESC
        }
    }

    fn oracle(&self) -> Attention<'_> {
        let tensor = |data, rows: usize, heads: usize| Tensor {
            data: Elements::F32(data),
            batch_stride: rows * heads * DIM,
            row_stride: heads * DIM,
            head_stride: DIM,
        };
        let cache = |data, table| Cache {
            tensor: tensor(data, PAGE, KV_HEADS),
            pages: Some(Pages { page_size: PAGE, table, stride: ENTRIES, offsets: None }),
            quant: None,
        };
        Attention {
            batch: BATCH,
            q_len: Q_LEN,
            kv_len: KV_LEN,
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: DIM,
            value_head_dim: DIM,
            kv_lens: Some(&self.kv_lens),
            query: tensor(&self.query, Q_LEN, HEADS),
            key: cache(&self.key, &self.table),
            value: cache(&self.value, &self.value_table),
            ..Attention::default()
        }
    }
}

/// The table entries that serve all that a description asks for.
fn serving(desc: &kfa_attention_desc) -> Vec<&'static Row> {
    let p = problem::of(desc, Check::All).unwrap();
    let serves = |row: &&Row| p.features.without(row.algorithm.serves).is_empty();
    let rows: Vec<_> = entries().filter(serves).collect();
    assert!(!rows.is_empty(), "nothing serves {}", p.features);
    rows
}

/// Runs a description through every entry that serves it.
fn check(desc: &kfa_attention_desc, output: &mut [f32], oracle: &Attention) {
    let (want, _) = oracle.all();
    for entry in serving(desc) {
        output.fill(f32::NAN);
        if !run_entry(entry, desc) {
            continue;
        }
        for (i, (got, want)) in output.iter().zip(&want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error < 1e-5, "{}: output[{i}] is {got}, want {want}", entry.name());
        }
    }
}

#[test]
fn pages_in_any_order_and_none_where_nobody_looks() {
    let mut p = Problem::new();
    let desc = p.desc();
    let mut output = p.output.clone();
    let desc = kfa_attention_desc {
        output: kfa_tensor_view { data: output.as_mut_ptr().cast(), ..desc.output },
        ..desc
    };
    check(&desc, &mut output, &p.oracle());
}

#[test]
fn a_page_that_is_not_there_is_named_before_anything_is_written() {
    for (table, which, at, value) in
        [("page_table", 0, 4, -1), ("page_table", 0, 8, 16), ("value_page_table", 1, 0, i32::MIN)]
    {
        let mut p = Problem::new();
        [&mut p.table, &mut p.value_table][which][at] = value;
        let desc = p.desc();
        for entry in serving(&desc) {
            let mut workspace = vec![0f32; 1 << 16];
            let desc = kfa_attention_desc {
                workspace: workspace.as_mut_ptr().cast(),
                workspace_size: workspace.len() * 4,
                ..desc
            };
            let problem = problem::of(&desc, Check::All).unwrap();
            if (entry.algorithm.supports)(&problem, &crate::cpu::caps::level()).is_err() {
                continue;
            }
            let error = (entry.algorithm.run)(&problem, &entry.kernels, &()).unwrap_err();
            assert_eq!(error.status, Status::InvalidArgument);
            assert!(
                error.message.starts_with(&format!("{table}[{at}] is {value}; expected 0 to 15")),
                "{}",
                error.message
            );
            assert!(p.output.iter().all(|x| x.is_nan()));
        }
    }
}

/// Every kind of mask hides the same keys of rows and heads; one row sees none at all, and a page that
/// it hides from everyone need not exist.
#[test]
fn masks_hide_keys_and_pages() {
    const COLUMNS: usize = 30;
    let shown = |head: usize, row: usize, column: usize| {
        !(8..16).contains(&column) && row != 2 && !(column * 7 + row + head).is_multiple_of(5)
    };
    let elements = HEADS * Q_LEN * COLUMNS;
    let each = |i: usize| shown(i / COLUMNS / Q_LEN, i / COLUMNS % Q_LEN, i % COLUMNS);
    let additive: Vec<f32> = (0..elements)
        .map(|i| if each(i) { (i % 11) as f32 * 0.25 } else { f32::NEG_INFINITY })
        .collect();
    let halves: Vec<half::f16> = additive.iter().map(|x| half::f16::from_f32(*x)).collect();
    let boolean: Vec<u8> = (0..elements).map(|i| if each(i) { 3 } else { 0 }).collect();
    let mut bits = vec![0u8; elements.div_ceil(8)];
    (0..elements).filter(|i| each(*i)).for_each(|i| bits[i / 8] |= 1 << (i % 8));
    let factors = [1.0, -0.5, 0.0, 2.0];
    type Kind<'a> = (kfa_mask_kind, kfa_dtype, *const std::ffi::c_void, MaskKind<'a>);
    let kinds: [Kind; 4] = [
        (
            KFA_MASK_ADDITIVE,
            KFA_DTYPE_FP32,
            additive.as_ptr().cast(),
            MaskKind::Additive(Elements::F32(&additive)),
        ),
        (
            KFA_MASK_ADDITIVE,
            KFA_DTYPE_FP16,
            halves.as_ptr().cast(),
            MaskKind::Additive(Elements::F16(&halves)),
        ),
        (KFA_MASK_BOOLEAN, 0, boolean.as_ptr().cast(), MaskKind::Boolean(&boolean)),
        (KFA_MASK_BITS, 0, bits.as_ptr().cast(), MaskKind::Bits(&bits)),
    ];
    for (kind, dtype, data, oracle_kind) in kinds {
        for newest in [false, true] {
            let mut p = Problem::new();
            if !newest {
                // Keys 8 to 15 are hidden from all: their page need not exist.
                p.table[1] = -1;
                p.value_table[7] = -5;
            }
            let mut output = p.output.clone();
            let factor = kind == KFA_MASK_ADDITIVE;
            let desc = p.desc();
            let desc = kfa_attention_desc {
                output: kfa_tensor_view { data: output.as_mut_ptr().cast(), ..desc.output },
                mask: kfa_attention_mask {
                    data,
                    kind,
                    dtype,
                    batch_stride: 0,
                    head_stride: (Q_LEN * COLUMNS) as i64,
                    row_stride: COLUMNS as i64,
                },
                mask_columns: COLUMNS as i32,
                mask_newest: newest.into(),
                mask_head_factor: if factor { factors.as_ptr() } else { std::ptr::null() },
                ..desc
            };
            let oracle = Attention {
                mask: Some(Mask {
                    kind: oracle_kind,
                    batch_stride: 0,
                    head_stride: Q_LEN * COLUMNS,
                    row_stride: COLUMNS,
                    columns: COLUMNS,
                    newest,
                    offsets: None,
                    head_factor: factor.then_some(&factors),
                }),
                ..p.oracle()
            };
            check(&desc, &mut output, &oracle);
        }
    }
}

/// int8 keys with a scale per page, token group and head, ggml's blocks as values.
#[test]
fn keys_and_values_of_unlike_types_are_dequantised() {
    let mut p = Problem::new();
    let mut keys: Vec<i8> = (0..p.key.len()).map(|i| (i * 73 % 251) as u8 as i8).collect();
    let scales: Vec<f32> =
        (0..PAGES * PAGE / 4 * KV_HEADS).map(|i| 0.01 + i as f32 * 1e-4).collect();
    let zeros: Vec<f32> = (0..scales.len()).map(|i| i as f32 % 5.0 - 2.0).collect();
    let strides = [PAGE / 4 * KV_HEADS, KV_HEADS, 1, 0];
    let quant = kfa_quant {
        struct_size: size_of::<kfa_quant>() as u32,
        dtype: KFA_DTYPE_FP32,
        scale: scales.as_ptr().cast(),
        zero: zeros.as_ptr().cast(),
        token_group: 4,
        channel_group: 0,
        batch_stride: strides[0] as i64,
        token_stride: strides[1] as i64,
        head_stride: strides[2] as i64,
        channel_stride: strides[3] as i64,
    };
    let mut values: Vec<u16> = (0..PAGES * PAGE * KV_HEADS * 17)
        .map(|i| if i % 17 == 0 { 0x2000 + i as u16 % 64 } else { (i as u16).wrapping_mul(257) })
        .collect();
    let mut output = p.output.clone();
    let desc = p.desc();
    let desc = kfa_attention_desc {
        output: kfa_tensor_view { data: output.as_mut_ptr().cast(), ..desc.output },
        key: kfa_tensor_view { data: keys.as_mut_ptr().cast(), dtype: KFA_DTYPE_INT8, ..desc.key },
        value: kfa_tensor_view {
            data: values.as_mut_ptr().cast(),
            dtype: KFA_DTYPE_Q8_0,
            ..desc.value
        },
        key_quant: &quant,
        ..desc
    };
    let bytes: Vec<u8> = values.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut oracle = p.oracle();
    oracle.key.tensor.data = Elements::I8(&keys);
    oracle.key.quant = Some(Quant {
        scale: Elements::F32(&scales),
        zero: Some(Elements::F32(&zeros)),
        strides,
        tokens_per_group: 4,
        channels_per_group: DIM,
    });
    oracle.value.tensor = Tensor {
        data: Elements::Q8_0(&bytes),
        batch_stride: PAGE * KV_HEADS,
        row_stride: KV_HEADS,
        head_stride: 1,
    };
    check(&desc, &mut output, &oracle);
}
