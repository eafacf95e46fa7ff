//! Every instruction set against the definition in float64, in memory that is poisoned around results.

use super::*;
use crate::abi::*;
use crate::cpu::isa::LEVELS;
use crate::cpu::level::Proven;
use crate::cpu::table;
use half::{bf16, f16};

/// Numbers that look random, in -1..1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn to_bytes(dtype: kfa_dtype, value: f32) -> Vec<u8> {
    match dtype {
        KFA_DTYPE_FP16 => f16::from_f32(value).to_le_bytes().to_vec(),
        KFA_DTYPE_BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

fn from_bytes(dtype: kfa_dtype, bytes: &[u8]) -> f64 {
    match dtype {
        KFA_DTYPE_FP16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        KFA_DTYPE_BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        _ => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
    }
}

/// An array `[batch, rows, heads, width]` in memory that is poisoned where nothing lies.
struct Memory {
    bytes: Vec<u8>,
    dtype: kfa_dtype,
    strides: [usize; 3],
    width: usize,
}

const POISON: u8 = 0xff;

impl Memory {
    /// `gap` elements between heads, rows and batch entries; `heads_first` packs heads outside
    /// rows, as LSEs are.
    fn new(dtype: kfa_dtype, shape: [usize; 4], gap: usize, heads_first: bool) -> Self {
        let [batch, rows, heads, width] = shape;
        let inner = width + gap;
        let (row, head, sequence) = if heads_first {
            (inner, inner * rows + gap, (inner * rows + gap) * heads + gap)
        } else {
            (inner * heads + gap, inner, (inner * heads + gap) * rows + gap)
        };
        let size = if dtype == KFA_DTYPE_FP32 { 4 } else { 2 };
        Self {
            bytes: vec![POISON; sequence * batch * size],
            dtype,
            strides: [sequence, row, head],
            width,
        }
    }

    fn at(&self, index: [usize; 3], d: usize) -> std::ops::Range<usize> {
        let size = to_bytes(self.dtype, 0.0).len();
        let element = index.iter().zip(self.strides).map(|(i, s)| i * s).sum::<usize>() + d;
        element * size..(element + 1) * size
    }

    fn set(&mut self, index: [usize; 3], d: usize, value: f32) {
        let at = self.at(index, d);
        self.bytes[at].copy_from_slice(&to_bytes(self.dtype, value));
    }

    fn get(&self, index: [usize; 3], d: usize) -> f64 {
        from_bytes(self.dtype, &self.bytes[self.at(index, d)])
    }

    /// Takes the results away and sees that nothing else was written.
    fn assert_gaps_untouched(&mut self, indices: &[[usize; 3]]) {
        for index in indices {
            let row = self.at(*index, 0).start..self.at(*index, self.width - 1).end;
            self.bytes[row].fill(POISON);
        }
        assert!(self.bytes.iter().all(|byte| *byte == POISON), "written beside the result");
    }
}

struct Case {
    shape: [usize; 4],
    parts: usize,
    from: kfa_dtype,
    to: kfa_dtype,
    gap: usize,
    base2: bool,
    ragged: bool,
    in_place: bool,
    /// Whether some parts have an LSE that no sum of exponentials has.
    spoilt: bool,
}

/// Output and LSE of a row by definition.
fn expected(parts: &[(f64, Vec<f64>)], width: usize, base2: bool) -> (f64, Vec<f64>) {
    let base = if base2 { 2f64 } else { std::f64::consts::E };
    if parts.iter().any(|(lse, _)| lse.is_nan() || *lse == f64::INFINITY) {
        return (f64::NAN, vec![f64::NAN; width]);
    }
    let max = parts.iter().fold(f64::NEG_INFINITY, |max, (lse, _)| max.max(*lse));
    if max == f64::NEG_INFINITY {
        return (max, vec![0.0; width]);
    }
    let (mut sum, mut output) = (0.0, vec![0.0; width]);
    for (lse, values) in parts.iter().filter(|(lse, _)| *lse > f64::NEG_INFINITY) {
        let weight = base.powf(lse - max);
        sum += weight;
        output.iter_mut().zip(values).for_each(|(to, value)| *to += weight * value);
    }
    (max + sum.ln() / base.ln(), output.iter().map(|value| value / sum).collect())
}

fn check(case: &Case, isa_task: Proven<Task>, numbers: &mut Numbers) {
    let [batch, q_len, heads, width] = case.shape;
    let indices: Vec<[usize; 3]> = (0..batch * q_len * heads)
        .map(|i| [i / heads / q_len, i / heads % q_len, i % heads])
        .collect();
    // Rows of unlike many parts, some of none.
    let mut offsets = vec![0i32];
    for row in 0..batch * q_len {
        offsets.push(offsets[row] + (row * 7 % (case.parts + 1)) as i32);
    }
    let part_rows = (*offsets.last().unwrap() as usize).max(1);
    let arrays = if case.ragged { 1 } else { case.parts };
    let parts_shape = if case.ragged { [1, part_rows, heads] } else { [batch, q_len, heads] };
    let [b, r, h] = parts_shape;
    let mut outputs = Vec::new();
    let mut lses = Vec::new();
    for _ in 0..arrays {
        let mut output = Memory::new(case.from, [b, r, h, width], case.gap, false);
        let mut lse = Memory::new(KFA_DTYPE_FP32, [b, r, h, 1], case.gap, true);
        for i in 0..b * r * h {
            let index = [i / h / r, i / h % r, i % h];
            let chance = numbers.next();
            let value = match chance {
                0.8.. => f32::NEG_INFINITY,
                0.77..0.8 if case.spoilt => f32::NAN,
                0.75..0.77 if case.spoilt => f32::INFINITY,
                _ => numbers.next() * 20.0,
            };
            lse.set(index, 0, value);
            if value != f32::NEG_INFINITY {
                (0..width).for_each(|d| output.set(index, d, numbers.next()));
            } // What has no keys holds poison.
        }
        outputs.push(output);
        lses.push(lse);
    }
    let wanted: Vec<(f64, Vec<f64>)> = indices
        .iter()
        .map(|index| {
            let places: Vec<(usize, [usize; 3])> = if case.ragged {
                let row = index[0] * q_len + index[1];
                let rows = offsets[row] as usize..offsets[row + 1] as usize;
                rows.map(|part| (0, [0, part, index[2]])).collect()
            } else {
                (0..case.parts).map(|part| (part, *index)).collect()
            };
            let parts: Vec<(f64, Vec<f64>)> = places
                .iter()
                .map(|(array, at)| {
                    let values = (0..width).map(|d| outputs[*array].get(*at, d)).collect();
                    (lses[*array].get(*at, 0), values)
                })
                .collect();
            expected(&parts, width, case.base2)
        })
        .collect();

    let mut output = Memory::new(case.to, case.shape, case.gap, false);
    let mut lse = Memory::new(KFA_DTYPE_FP32, [batch, q_len, heads, 1], case.gap, true);
    let output_pointers: Vec<*const f32> =
        outputs.iter_mut().map(|memory| memory.bytes.as_mut_ptr().cast_const().cast()).collect();
    let lse_pointers: Vec<*const f32> =
        lses.iter_mut().map(|memory| memory.bytes.as_mut_ptr().cast_const().cast()).collect();
    let strides = |memory: &Memory| {
        memory.strides.map(|stride| if case.gap == 0 { 0 } else { stride as i64 })
    };
    let [outputs_strides, lses_strides] = [strides(&outputs[0]), strides(&lses[0])];
    let [output_strides, lse_strides] = [strides(&output), strides(&lse)];
    let (to, lse_to) = if case.in_place {
        (output_pointers[arrays - 1].cast_mut(), lse_pointers[arrays - 1].cast_mut())
    } else {
        (output.bytes.as_mut_ptr().cast(), lse.bytes.as_mut_ptr().cast())
    };
    let desc = kfa_merge_desc {
        device: KFA_DEVICE_CPU,
        parts: arrays as i32,
        batch: batch as i32,
        q_len: q_len as i32,
        heads: heads as i32,
        head_dim: width as i32,
        flags: if case.base2 { KFA_FLAG_LSE_BASE2 } else { 0 },
        outputs: output_pointers.as_ptr(),
        lses: lse_pointers.as_ptr(),
        output: to,
        lse: lse_to,
        outputs_dtype: if case.gap == 0 && case.from == KFA_DTYPE_FP32 { 0 } else { case.from },
        output_dtype: case.to,
        outputs_batch_stride: outputs_strides[0],
        outputs_row_stride: outputs_strides[1],
        outputs_head_stride: outputs_strides[2],
        output_batch_stride: output_strides[0],
        output_row_stride: output_strides[1],
        output_head_stride: output_strides[2],
        lses_batch_stride: lses_strides[0],
        lses_row_stride: lses_strides[1],
        lses_head_stride: lses_strides[2],
        lse_batch_stride: lse_strides[0],
        lse_row_stride: lse_strides[1],
        lse_head_stride: lse_strides[2],
        part_offsets: if case.ragged { offsets.as_ptr() } else { std::ptr::null() },
        part_rows: if case.ragged { part_rows as i32 } else { 0 },
        ..DEFAULT_MERGE_DESC
    };
    // SAFETY: the arrays above; the caller vouches for the instruction set.
    unsafe {
        let merge = Merge::new(&desc).unwrap();
        run(&merge, isa_task).unwrap();
    }
    let tolerance = match case.to {
        KFA_DTYPE_FP16 => 1.0 / 1024.0,
        KFA_DTYPE_BF16 => 1.0 / 128.0,
        _ => 1e-6,
    };
    let [result, result_lse] = if case.in_place {
        [outputs.last_mut().unwrap(), lses.last_mut().unwrap()]
    } else {
        [&mut output, &mut lse]
    };
    let same = |got: f64, want: f64, tolerance: f64| {
        got == want || got.is_nan() && want.is_nan() || (got - want).abs() <= tolerance
    };
    for (index, (want_lse, want)) in indices.iter().zip(&wanted) {
        let got = result_lse.get(*index, 0);
        assert!(same(got, *want_lse, 4e-6), "{index:?}: LSE {got}, expected {want_lse}");
        for (d, want) in want.iter().enumerate() {
            let got = result.get(*index, d);
            assert!(same(got, *want, tolerance), "{index:?} {d}: {got}, expected {want}");
        }
    }
    result.assert_gaps_untouched(&indices);
    result_lse.assert_gaps_untouched(&indices);
}

const TYPES: [kfa_dtype; 3] = [KFA_DTYPE_FP32, KFA_DTYPE_FP16, KFA_DTYPE_BF16];

fn on_every_instruction_set(mut test: impl FnMut(Proven<Task>)) {
    let detected = LEVELS.iter().filter(|level| (level.detected)());
    detected.for_each(|level| test(table::kernels(level).merge.prove().unwrap()));
}

#[test]
fn every_type_layout_and_base_merges_as_defined() {
    let mut numbers = Numbers(1);
    on_every_instruction_set(|task| {
        for width in [1, 3, 16, 40, 64, 80, 127, 200] {
            for (from, to) in TYPES.into_iter().flat_map(|from| TYPES.map(|to| (from, to))) {
                for (gap, ragged) in [(0, false), (5, false), (0, true), (5, true)] {
                    let case = Case {
                        shape: [2, 3, 3, width],
                        parts: 4,
                        from,
                        to,
                        gap,
                        base2: width % 2 == 0,
                        ragged,
                        in_place: false,
                        spoilt: true,
                    };
                    check(&case, task, &mut numbers);
                }
            }
        }
    });
}

#[test]
fn any_number_of_parts_merges_on_several_threads_and_in_place() {
    let mut numbers = Numbers(2);
    on_every_instruction_set(|task| {
        for (parts, in_place) in [(1, true), (2, true), (100, true), (1000, false)] {
            let case = Case {
                shape: [1, 5, 4, 96],
                parts,
                from: KFA_DTYPE_FP32,
                to: KFA_DTYPE_FP32,
                gap: 3,
                base2: false,
                ragged: false,
                in_place,
                spoilt: false,
            };
            check(&case, task, &mut numbers);
        }
    });
}
