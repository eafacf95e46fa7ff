//! Every table entry of every instruction set this CPU has, against the float64 oracle.
//!
//! Inputs are random, outputs poisoned and guarded, and every float between or beyond the valid
//! elements of an input is NaN, so that a read out of place shows.

use super::float_state::flushing_denormals;
use super::isa::Kernels;
use super::table::{Row, TABLE};
use super::threads;
use super::vector::{MAX_LANES, ROUND, Vector, exp2_nonpositive};
use crate::abi::DEFAULT_DESC;
use crate::abi::*;
use crate::dtype::Dtype;
use crate::problem::{self, Check};
use crate::reference::{self, Elements, Shape, Tensor};
use crate::settings::Mode;
use half::{bf16, f16};

mod caches;
mod seams;

/// SplitMix64 with a normal distribution on top.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Mostly short sequences, some that span several blocks and splits.
    fn length(&mut self) -> usize {
        let bound = self.pick(&[8, 40, 40, 150, 150, 400]);
        self.below(bound)
    }

    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f32 {
        ((-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos())
            as f32
    }
}

/// Memory for one tensor: valid elements at the strides, NaN everywhere else.
#[derive(Clone)]
struct Buffer {
    dtype: Dtype,
    /// What the elements are, as float32; kernels see these where that is the type.
    data: Vec<f32>,
    /// What kernels see of a 16-bit type.
    words: Vec<u16>,
    offset: usize,
    strides: [usize; 3],
    shape: [usize; 4],
}

const GUARD: usize = 37;

impl Buffer {
    fn new(shape: [usize; 4], capacity_rows: usize, random: &mut Random) -> Self {
        Self::of(Dtype::Fp32, shape, capacity_rows, random)
    }

    fn of(dtype: Dtype, shape: [usize; 4], capacity_rows: usize, random: &mut Random) -> Self {
        let [batch, _, heads, head_dim] = shape;
        let head = head_dim + random.pick(&[0, 0, 3]);
        let row = heads * head + random.pick(&[0, 0, 5]);
        let sequence = capacity_rows * row + random.pick(&[0, 7]);
        // An odd offset puts every row at another alignment of the vector registers.
        let offset = GUARD + random.below(4);
        let data = vec![f32::NAN; offset + batch * sequence + GUARD];
        let words = match dtype {
            Dtype::Fp32 => vec![],
            _ => vec![word_of(dtype, f32::NAN); data.len()],
        };
        Self { dtype, data, words, offset, strides: [sequence, row, head], shape }
    }

    fn index(&self, [b, i, h, d]: [usize; 4]) -> usize {
        let [batch, row, head] = self.strides;
        self.offset + b * batch + i * row + h * head + d
    }

    fn each_index(&self) -> impl Iterator<Item = [usize; 4]> + use<> {
        let [batch, rows, heads, head_dim] = self.shape;
        (0..batch * rows * heads * head_dim).map(move |n| {
            let (rest, d) = (n / head_dim, n % head_dim);
            [rest / heads / rows, rest / heads % rows, rest % heads, d]
        })
    }

    fn fill(mut self, mut value: impl FnMut() -> f32) -> Self {
        for at in self.each_index() {
            let index = self.index(at);
            self.data[index] = value();
            if self.dtype != Dtype::Fp32 {
                self.words[index] = word_of(self.dtype, self.data[index]);
                self.data[index] = value_of(self.dtype, self.words[index]);
            }
        }
        self
    }

    /// What a kernel left in memory, as float32; NaN where it wrote nothing.
    fn read_back(&mut self) {
        for (value, word) in self.data.iter_mut().zip(&self.words) {
            *value = value_of(self.dtype, *word);
        }
    }

    fn view(&mut self) -> kfa_tensor_view {
        let [batch, row, head] = self.strides.map(|stride| stride as i64);
        let (data, dtype) = match self.dtype {
            Dtype::Fp32 => (self.data[self.offset..].as_mut_ptr().cast(), KFA_DTYPE_FP32),
            Dtype::Fp16 => (self.words[self.offset..].as_mut_ptr().cast(), KFA_DTYPE_FP16),
            Dtype::Bf16 => (self.words[self.offset..].as_mut_ptr().cast(), KFA_DTYPE_BF16),
            other => unreachable!("no test tensor of {other}"),
        };
        kfa_tensor_view {
            data,
            dtype,
            reserved: 0,
            batch_stride: batch,
            row_stride: row,
            head_stride: head,
        }
    }

    fn tensor(&self) -> Tensor<'_> {
        let [batch_stride, row_stride, head_stride] = self.strides;
        Tensor { data: self.data[self.offset..].into(), batch_stride, row_stride, head_stride }
    }
}

fn word_of(dtype: Dtype, value: f32) -> u16 {
    match dtype {
        Dtype::Fp32 => unreachable!("float32 has no words"),
        Dtype::Fp16 => f16::from_f32(value).to_bits(),
        Dtype::Bf16 => bf16::from_f32(value).to_bits(),
        other => unreachable!("no test tensor of {other}"),
    }
}

fn value_of(dtype: Dtype, word: u16) -> f32 {
    match dtype {
        Dtype::Fp32 => unreachable!("float32 has no words"),
        Dtype::Fp16 => f16::from_bits(word).to_f32(),
        Dtype::Bf16 => bf16::from_bits(word).to_f32(),
        other => unreachable!("no test tensor of {other}"),
    }
}

/// The most that rounding to a type changes a number of this size.
fn rounding(dtype: Dtype, value: f64) -> f64 {
    match dtype {
        Dtype::Fp32 => 0.0, // within the bar
        Dtype::Fp16 => (value.abs() / 2048.0).max(2f64.powi(-25)),
        Dtype::Bf16 => value.abs() / 256.0,
        other => unreachable!("no test tensor of {other}"),
    }
}

/// Query and output of one type, keys and values of one.
const DTYPES: [(Dtype, Dtype); 5] = [
    (Dtype::Fp32, Dtype::Fp32),
    (Dtype::Fp16, Dtype::Fp16),
    (Dtype::Bf16, Dtype::Bf16),
    (Dtype::Fp32, Dtype::Fp16),
    (Dtype::Fp32, Dtype::Bf16),
];

/// A case: types and shape, the spread of the inputs, and whether the output is the query itself.
#[derive(Clone, Copy, Debug)]
struct Case {
    dtypes: (Dtype, Dtype),
    shape: Shape,
    spread: f32,
    in_place: bool,
}

impl Case {
    fn plain(q_len: usize, kv_len: usize, heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let scale = 1.0 / (head_dim as f64).sqrt();
        let shape =
            Shape { batch: 1, q_len, kv_len, heads, kv_heads, head_dim, scale, causal: true };
        Self { dtypes: DTYPES[0], shape, spread: 1.0, in_place: false }
    }
}

fn entries() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(|entry| (entry.kernels.level.detected)())
}

/// Runs one case through every entry that supports it.
fn check(case: Case, seed: u64) {
    let mut random = Random(seed);
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, .. } = case.shape;
    let capacity = kv_len + random.below(9);
    let q_shape = [batch, q_len, heads, head_dim];
    let kv_shape = [batch, kv_len, kv_heads, head_dim];
    let (query_dtype, kv_dtype) = case.dtypes;
    let mut query = Buffer::of(query_dtype, q_shape, q_len, &mut random);
    let mut key = Buffer::of(kv_dtype, kv_shape, capacity, &mut random);
    let mut value = Buffer::of(kv_dtype, kv_shape, capacity, &mut random);
    query = query.fill(|| case.spread * random.normal());
    key = key.fill(|| case.spread * random.normal());
    value = value.fill(|| random.normal());
    let (expected, expected_lse) =
        reference::attention(case.shape, query.tensor(), key.tensor(), value.tensor());
    for entry in entries() {
        let inputs = [query.clone(), key.clone(), value.clone()];
        check_entry(entry, case, seed, inputs, (&expected, &expected_lse));
    }
}

/// Runs one case through one entry, unless the entry does not support it.
fn check_entry(
    entry: &Row,
    case: Case,
    seed: u64,
    [mut query, mut key, mut value]: [Buffer; 3],
    (expected, expected_lse): (&[f64], &[f64]),
) {
    let mut random = Random(seed + 1);
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, scale, causal } = case.shape;
    let q_shape = [batch, q_len, heads, head_dim];
    let query_dtype = case.dtypes.0;
    let mut output = Buffer::of(query_dtype, q_shape, q_len, &mut random);
    let rows = batch * heads * q_len;
    let mut lse = vec![f32::NAN; rows + 2 * GUARD];
    let mut desc = kfa_attention_desc {
        is_causal: i32::from(causal),
        batch: batch as i32,
        q_len: q_len as i32,
        kv_len: kv_len as i32,
        heads: heads as i32,
        kv_heads: kv_heads as i32,
        head_dim: head_dim as i32,
        softmax_scale: scale as f32,
        query: query.view(),
        key: key.view(),
        value: value.view(),
        output: if case.in_place { query.view() } else { output.view() },
        lse: lse[GUARD..].as_mut_ptr(),
        ..DEFAULT_DESC
    };
    let planned = problem::of(&desc, Check::All).unwrap();
    if (entry.algorithm.supports)(&planned, &&super::isa::portable::LEVEL).is_err() {
        return;
    }
    let size = if random.below(2) == 0 {
        (entry.algorithm.workspace)(&planned, &&super::isa::portable::LEVEL).preferred
    } else {
        (entry.algorithm.workspace)(&planned, &&super::isa::portable::LEVEL).min
    };
    let mut workspace = vec![f32::NAN; size / 4 + GUARD];
    desc.workspace = workspace.as_mut_ptr().cast();
    desc.workspace_size = size;
    let problem = problem::of(&desc, Check::All).unwrap();
    let before = query.data.clone();
    (entry.algorithm.run)(&problem, &entry.kernels, &()).unwrap();
    query.read_back();
    output.read_back();

    let context = || format!("{} on {case:?} seed {seed}", entry.name());
    let result = if case.in_place { &query } else { &output };
    let mut written = vec![false; result.data.len()];
    let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut error_norm = 0.0;
    for (at, want) in result.each_index().zip(expected) {
        let got = f64::from(result.data[result.index(at)]);
        written[result.index(at)] = true;
        let error = (got - want).abs();
        // The bar of the contract, at unit-normal inputs; larger scores have larger roundings.
        let bar =
            1e-5 * f64::from(case.spread * case.spread).max(1.0) + rounding(query_dtype, *want);
        assert!(error < bar, "output{at:?} is {got}, want {want}; {}", context());
        error_norm += error * error;
    }
    let relative = error_norm.sqrt() / norm.max(f64::MIN_POSITIVE);
    let bar = 1e-4 + rounding(query_dtype, 1.0);
    assert!(norm == 0.0 || relative < bar, "relative error {relative}; {}", context());
    for (index, value) in result.data.iter().enumerate() {
        let untouched = value.to_bits()
            == if case.in_place { before[index].to_bits() } else { f32::NAN.to_bits() };
        assert!(written[index] || untouched, "wrote beside the output at {index}; {}", context());
    }
    if !case.in_place {
        let same = query.data.iter().zip(&before).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "wrote to the query; {}", context());
    }
    for (row, want) in expected_lse.iter().enumerate() {
        let got = f64::from(lse[GUARD + row]);
        let close = (got - want).abs() < 1e-5 * want.abs().max(1.0) || got == *want;
        assert!(close, "lse[{row}] is {got}, want {want}; {}", context());
    }
    assert!(lse[..GUARD].iter().chain(&lse[GUARD + rows..]).all(|x| x.is_nan()), "{}", context());
    assert!(workspace[size / 4..].iter().all(|x| x.is_nan()), "workspace overrun; {}", context());
}

/// Runs an entry with a workspace of its liking; false if it does not support the problem.
fn run_entry(entry: &Row, desc: &kfa_attention_desc) -> bool {
    let planned = problem::of(desc, Check::All).unwrap();
    if (entry.algorithm.supports)(&planned, &&super::isa::portable::LEVEL).is_err() {
        return false;
    }
    let size = (entry.algorithm.workspace)(&planned, &&super::isa::portable::LEVEL).preferred;
    let mut workspace = vec![f32::NAN; size / 4];
    let desc = kfa_attention_desc {
        workspace: if size > 0 { workspace.as_mut_ptr().cast() } else { std::ptr::null_mut() },
        workspace_size: size,
        ..*desc
    };
    let problem = problem::of(&desc, Check::All).unwrap();
    (entry.algorithm.run)(&problem, &entry.kernels, &()).unwrap();
    true
}

fn check_all(cases: impl IntoIterator<Item = Case>) {
    for (seed, case) in cases.into_iter().enumerate() {
        check(case, seed as u64);
    }
}

/// How many of so many random cases to check: every n-th where `KFA_TEST_EVERY` is n.
fn sweep_count(cases: u64) -> u64 {
    cases / std::env::var("KFA_TEST_EVERY").map_or(1, |n| n.parse().expect("a number"))
}

/// Checks many cases, or every n-th where `KFA_TEST_EVERY` is n: an emulated CPU takes minutes over
/// all of them.
fn sweep(cases: impl IntoIterator<Item = Case>) {
    let every = std::env::var("KFA_TEST_EVERY").map_or(1, |n| n.parse().expect("a number"));
    check_all(cases.into_iter().step_by(every));
}

#[test]
fn every_head_dim_class_and_row_count() {
    let mut cases = vec![];
    for head_dim in [1, 2, 3, 7, 8, 16, 31, 48, 64, 80, 96, 127, 128, 129, 256, 511, 512] {
        for (q_len, kv_len) in [(1, 1), (1, 70), (5, 5), (9, 300), (130, 130)] {
            cases.push(Case::plain(q_len, kv_len, 4, 2, head_dim));
        }
    }
    sweep(cases);
}

#[test]
fn every_dtype_reads_and_writes_any_head_dim() {
    sweep(DTYPES.iter().flat_map(|dtypes| {
        [1, 5, 16, 40, 64, 80, 128, 131, 512].into_iter().flat_map(|head_dim| {
            [(1, 70), (1, 5000), (9, 40), (130, 130)]
                .map(|(q, kv)| Case { dtypes: *dtypes, ..Case::plain(q, kv, 6, 2, head_dim) })
        })
    }));
}

/// Infinities, subnormals, halves between neighbours: a single key's value passes through as it is,
/// and what float32 values become in 16 bits is what the `half` crate makes of them.
#[test]
fn conversions_are_exact() {
    for entry in entries() {
        for (dtype, c_dtype) in [(Dtype::Fp16, KFA_DTYPE_FP16), (Dtype::Bf16, KFA_DTYPE_BF16)] {
            for q_len in [1, 2] {
                let head_dim = 256;
                for words in (0..=u16::MAX).collect::<Vec<u16>>().chunks(head_dim) {
                    let mut values = words.to_vec();
                    let (mut query, mut key) = (vec![0u16; q_len * head_dim], vec![0u16; head_dim]);
                    let mut output = vec![0u16; q_len * head_dim];
                    let view = |data: &mut [u16]| kfa_tensor_view {
                        data: data.as_mut_ptr().cast(),
                        dtype: c_dtype,
                        ..crate::abi::NO_VIEW
                    };
                    let desc = kfa_attention_desc {
                        is_causal: 0,
                        q_len: q_len as i32,
                        kv_len: 1,
                        heads: 1,
                        kv_heads: 1,
                        head_dim: head_dim as i32,
                        query: view(&mut query),
                        key: view(&mut key),
                        value: view(&mut values),
                        output: view(&mut output),
                        ..DEFAULT_DESC
                    };
                    if !run_entry(entry, &desc) {
                        continue;
                    }
                    for (got, want) in output.iter().zip(words.iter().cycle()) {
                        let nan = value_of(dtype, *want).is_nan();
                        let same = got == want || value_of(dtype, *want) == 0.0 && got << 1 == 0;
                        assert!(
                            if nan { value_of(dtype, *got).is_nan() } else { same },
                            "{}: {dtype} {want:#x} became {got:#x}",
                            entry.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_group_ratio() {
    let ratios = 1..=16;
    sweep(ratios.flat_map(|ratio| {
        [(1, 200), (3, 17), (40, 200)].map(|(q, kv)| Case::plain(q, kv, 2 * ratio, 2, 24))
    }));
}

#[test]
fn real_decode_shapes_split_over_keys() {
    check_all([
        Case::plain(1, 4100, 8, 2, 128),
        Case::plain(1, 1024, 32, 8, 128),
        Case::plain(1, 2048, 32, 4, 64),
        Case::plain(1, 513, 3, 1, 80),
    ]);
}

#[test]
fn real_prefill_shapes() {
    check_all([Case::plain(600, 600, 4, 1, 64), Case::plain(257, 700, 2, 2, 128)]);
}

#[test]
fn rows_that_see_no_key_are_zero() {
    check_all([Case::plain(7, 3, 4, 2, 16), Case::plain(200, 60, 2, 1, 64)]);
}

#[test]
fn without_causal_mask_every_row_sees_every_key() {
    let mut cases = [Case::plain(6, 3, 4, 2, 16), Case::plain(33, 290, 4, 4, 64)];
    cases.iter_mut().for_each(|case| case.shape.causal = false);
    check_all(cases);
}

#[test]
fn output_may_be_the_query() {
    let cases = [Case::plain(1, 700, 8, 2, 64), Case::plain(90, 300, 6, 2, 80)];
    check_all(cases.map(|case| Case { in_place: true, ..case }));
}

#[test]
fn extreme_scores_stay_finite_and_exact() {
    // Scores up to several hundred: all weight on one key, most exponentials flushed to zero.
    let cases = [Case::plain(1, 300, 4, 2, 64), Case::plain(50, 300, 4, 2, 64)];
    check_all(cases.map(|case| Case { spread: 6.0, ..case }));
}

#[test]
fn negative_scale_is_a_scale() {
    let mut cases = [Case::plain(1, 300, 4, 2, 64), Case::plain(50, 300, 4, 2, 64)];
    cases.iter_mut().for_each(|case| case.shape.scale = -0.3);
    check_all(cases);
}

#[test]
fn random_shapes() {
    let mut random = Random(2026);
    sweep((0..400).map(|_| {
        let kv_heads = random.pick(&[1, 2, 3, 5]);
        let head_dim = random.pick(&[1, 4, 8, 13, 32, 48, 64, 80, 100, 128]);
        let kv_len = 1 + random.length();
        let q_len = if random.below(3) == 0 { 1 } else { 1 + random.below(kv_len + 3) };
        let shape = Shape {
            batch: 1 + random.below(3),
            q_len,
            kv_len,
            heads: kv_heads * (1 + random.below(9)),
            kv_heads,
            head_dim,
            scale: random.pick(&[1.0 / (head_dim as f64).sqrt(), 0.25, 1.0 / head_dim as f64]),
            causal: random.below(4) > 0,
        };
        let dtypes = random.pick(&DTYPES);
        Case { dtypes, shape, spread: 1.0, in_place: random.below(4) == 0 }
    }));
}

/// A value that a row does not see must not reach it, even as 0 times NaN or infinity.
#[test]
fn later_tokens_cannot_poison_earlier_rows() {
    for entry in entries() {
        let (q_len, heads, head_dim) = (150, 3, 32);
        let mut random = Random(5);
        let mut tensors =
            [(); 3].map(|()| Buffer::new([1, q_len, heads, head_dim], q_len, &mut random));
        for tensor in &mut tensors {
            for at in tensor.each_index() {
                let index = tensor.index(at);
                tensor.data[index] = random.normal();
            }
        }
        let [mut query, mut key, mut value] = tensors;
        let mut run = |key: &mut Buffer, value: &mut Buffer| {
            let mut output = vec![0.0f32; q_len * heads * head_dim];
            let desc = kfa_attention_desc {
                q_len: q_len as i32,
                kv_len: q_len as i32,
                heads: heads as i32,
                kv_heads: heads as i32,
                head_dim: head_dim as i32,
                query: query.view(),
                key: key.view(),
                value: value.view(),
                output: kfa_tensor_view { data: output.as_mut_ptr().cast(), ..crate::abi::NO_VIEW },
                ..DEFAULT_DESC
            };
            run_entry(entry, &desc);
            output
        };
        let clean = run(&mut key, &mut value);
        let poisoned_row = 77;
        for (tensor, poison) in [(&mut key, f32::NAN), (&mut value, f32::INFINITY)] {
            for at in tensor.each_index().filter(|at| at[1] >= poisoned_row) {
                let index = tensor.index(at);
                tensor.data[index] = poison;
            }
        }
        let poisoned = run(&mut key, &mut value);
        let rows = poisoned_row * heads * head_dim;
        assert!(clean[..rows] == poisoned[..rows], "{} lets later tokens through", entry.name());
    }
}

#[test]
fn nan_in_a_visible_token_is_not_hidden() {
    for entry in entries() {
        for q_len in [1, 20] {
            let mut random = Random(11);
            let make = |random: &mut Random| Buffer::new([1, 40, 2, 16], 40, random).fill(|| 0.5);
            let (mut key, mut value) = (make(&mut random), make(&mut random));
            let mut query = Buffer::new([1, q_len, 2, 16], q_len, &mut random).fill(|| 0.5);
            let poisoned = key.index([0, 3, 0, 2]);
            key.data[poisoned] = f32::NAN;
            let mut output = Buffer::new([1, q_len, 2, 16], q_len, &mut random).fill(|| 0.0);
            let desc = kfa_attention_desc {
                q_len: q_len as i32,
                kv_len: 40,
                heads: 2,
                kv_heads: 2,
                head_dim: 16,
                query: query.view(),
                key: key.view(),
                value: value.view(),
                output: output.view(),
                ..DEFAULT_DESC
            };
            if !run_entry(entry, &desc) {
                continue;
            }
            let row = q_len - 1;
            assert!(output.data[output.index([0, row, 0, 5])].is_nan(), "{}", entry.name());
            assert!(!output.data[output.index([0, row, 1, 5])].is_nan(), "{}", entry.name());
        }
    }
}

/// A dense float32 problem over arrays of its own: every key, value and query can be set.
struct Dense {
    shape: Shape,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    output: Vec<f32>,
    lse: Vec<f32>,
}

impl Dense {
    fn new(shape: Shape, seed: u64) -> Self {
        let mut random = Random(seed);
        let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, .. } = shape;
        let mut floats = |count: usize| (0..count).map(|_| random.normal()).collect::<Vec<f32>>();
        let queries = batch * q_len * heads * head_dim;
        let keys = batch * kv_len * kv_heads * head_dim;
        Self {
            shape,
            query: floats(queries),
            key: floats(keys),
            value: floats(keys),
            output: vec![f32::NAN; queries],
            lse: vec![f32::NAN; batch * heads * q_len],
        }
    }

    /// Poisons the results and runs an entry; false if it does not serve the problem.
    fn run(&mut self, entry: &Row) -> bool {
        self.output.fill(f32::NAN);
        self.lse.fill(f32::NAN);
        let view = |data: &mut [f32]| kfa_tensor_view {
            data: data.as_mut_ptr().cast(),
            ..crate::abi::NO_VIEW
        };
        let desc = kfa_attention_desc {
            is_causal: i32::from(self.shape.causal),
            batch: self.shape.batch as i32,
            q_len: self.shape.q_len as i32,
            kv_len: self.shape.kv_len as i32,
            heads: self.shape.heads as i32,
            kv_heads: self.shape.kv_heads as i32,
            head_dim: self.shape.head_dim as i32,
            softmax_scale: self.shape.scale as f32,
            query: view(&mut self.query),
            key: view(&mut self.key),
            value: view(&mut self.value),
            output: view(&mut self.output),
            lse: self.lse.as_mut_ptr(),
            ..DEFAULT_DESC
        };
        run_entry(entry, &desc)
    }

    /// Output rows, each of one query row and head, in the order of the LSE.
    fn row(&self, head: usize, row: usize) -> (&[f32], f32) {
        let Shape { q_len, heads, head_dim, .. } = self.shape;
        let start = (row * heads + head) * head_dim;
        (&self.output[start..start + head_dim], self.lse[head * q_len + row])
    }
}

/// One NaN of any payload in a visible query, key or value makes the rows that see it NaN, and no
/// other row of any head.
#[test]
fn a_visible_nan_poisons_its_own_rows_and_no_other() {
    for entry in entries() {
        for (q_len, kv_len) in [(1, 70), (37, 70), (70, 70)] {
            let shape = Case::plain(q_len, kv_len, 4, 2, 19).shape;
            let mut clean = Dense::new(shape, 21);
            if !clean.run(entry) {
                continue;
            }
            for payload in NAN_PAYLOADS {
                for (which, token) in [(0, 0), (1, 40), (1, 69), (2, 40), (2, 0)] {
                    let mut dense = Dense::new(shape, 21);
                    // In the second key/value head, or the third head.
                    let (tensor, heads, head) = match which {
                        0 => (&mut dense.query, 4, 2),
                        1 => (&mut dense.key, 2, 1),
                        _ => (&mut dense.value, 2, 1),
                    };
                    tensor[(token * heads + head) * 19 + 7] = f32::from_bits(payload);
                    dense.run(entry);
                    for head in 0..4 {
                        for row in 0..q_len {
                            let sees = match which {
                                0 => head == 2 && row == token,
                                _ => head >= 2 && token <= kv_len - q_len + row,
                            };
                            let ((got, lse), (want, want_lse)) =
                                (dense.row(head, row), clean.row(head, row));
                            let place = (entry.name(), q_len, which, token, head, row, payload);
                            if !sees {
                                assert!(got == want && lse == want_lse, "{place:?}: {got:?}");
                            } else if which == 2 {
                                assert!(got[7].is_nan() && lse == want_lse, "{place:?}: {got:?}");
                            } else {
                                let all = got.iter().all(|x| x.is_nan()) && lse.is_nan();
                                assert!(all, "{place:?}: {got:?} {lse}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A row whose visible scores are all -infinity is a row without keys; one finite score makes it that
/// key's.
#[test]
fn scores_of_minus_infinity_are_keys_that_do_not_exist() {
    for entry in entries() {
        for (q_len, kv_len) in [(1, 5), (1, 3000), (30, 30), (60, 200)] {
            let shape = Case::plain(q_len, kv_len, 4, 2, 16).shape;
            let mut dense = Dense::new(shape, 3);
            dense.query.fill(1.0);
            let finite = kv_len - 2;
            for (i, key) in dense.key.iter_mut().enumerate() {
                if i / 32 != finite && i % 16 == 3 {
                    *key = f32::NEG_INFINITY;
                }
            }
            if !dense.run(entry) {
                continue;
            }
            for head in 0..4 {
                for row in 0..q_len {
                    let (got, lse) = dense.row(head, row);
                    let place = (entry.name(), q_len, kv_len, head, row);
                    if kv_len - q_len + row < finite {
                        assert!(got.iter().all(|x| *x == 0.0), "{place:?}: {got:?}");
                        assert_eq!(lse, f32::NEG_INFINITY, "{place:?}");
                    } else {
                        let value = &dense.value[(finite * 2 + head / 2) * 16..][..16];
                        assert_eq!(got, value, "{place:?}");
                        assert!(lse.is_finite(), "{place:?}");
                    }
                }
            }
        }
    }
}

/// A weight that float32 cannot hold is 0, whatever it weighs; and values may be as large as their
/// weighted sum before the division allows: FLT_MAX over the number of keys at least.
#[test]
fn weights_reach_zero_and_values_the_edge_of_their_range() {
    for entry in entries() {
        for q_len in [1, 20] {
            let mut shape = Case::plain(q_len, 100, 2, 1, 16).shape;
            (shape.scale, shape.causal) = (1.0, false);
            let mut dense = Dense::new(shape, 8);
            // Scores 0 and -200, values 1 and 3e38.
            dense.query.fill(1.0);
            dense.key.fill(-12.5);
            dense.value.fill(3e38);
            dense.key[..16].fill(0.0);
            dense.value[..16].fill(1.0);
            if !dense.run(entry) {
                continue;
            }
            assert!(dense.output.iter().all(|x| *x == 1.0), "{}: {:?}", entry.name(), dense.output);
            // A hundred equal keys of the largest values that are in range.
            let edge = f32::MAX / 128.0;
            dense.key.fill(0.0);
            dense.value.fill(edge);
            dense.run(entry);
            let near = |x: &f32| (x / edge - 1.0).abs() < 1e-6;
            assert!(dense.output.iter().all(near), "{}: {:?}", entry.name(), dense.output);
        }
    }
}

/// Scales whose product with log2(e) no float32 holds, or only some digits of.
#[test]
fn extreme_scales_keep_their_digits() {
    for entry in entries() {
        for q_len in [1, 20] {
            for (scale, size) in [(3e38f32, 1e-19f32), (1.5e-40, 3e19), (-3e38, 1e-19)] {
                let mut shape = Case::plain(q_len, 40, 2, 1, 8).shape;
                shape.scale = f64::from(scale);
                let mut dense = Dense::new(shape, 14);
                dense.query.iter_mut().for_each(|x| *x *= size);
                dense.key.iter_mut().for_each(|x| *x *= size);
                if !dense.run(entry) {
                    continue;
                }
                let tensor = |data, heads: usize| Tensor {
                    data,
                    batch_stride: 0,
                    row_stride: heads * 8,
                    head_stride: 8,
                };
                let (want, _) = reference::attention(
                    shape,
                    tensor(Elements::F32(&dense.query), 2),
                    tensor(Elements::F32(&dense.key), 1),
                    tensor(Elements::F32(&dense.value), 1),
                );
                for (got, want) in dense.output.iter().zip(&want) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(error < 3e-5, "{} at scale {scale}: {got}, {want}", entry.name());
                }
            }
        }
    }
}

/// What a task keeps of its heads does not grow with them.
#[test]
fn thousands_of_heads_share_a_key() {
    for heads in [1300, 5000] {
        check_all([Case::plain(1, 70, heads, 1, 8), Case::plain(3, 20, heads, 1, 8)]);
    }
    let scratch = |heads: usize, kv_heads: usize| {
        let dense = Dense::new(Case::plain(1, 1, 1, 1, 1).shape, 1);
        let view =
            kfa_tensor_view { data: dense.query.as_ptr().cast_mut().cast(), ..crate::abi::NO_VIEW };
        let desc = kfa_attention_desc {
            q_len: 1,
            kv_len: 4096,
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            head_dim: 64,
            query: view,
            key: view,
            value: view,
            output: view,
            ..DEFAULT_DESC
        };
        let p = problem::of(&desc, Check::Shape).unwrap();
        super::flash_decode::scratch_floats(&p, 1)
            .max(super::flash_prefill::scratch_floats(&p, 16, 1))
    };
    let most = scratch(1 << 20, 1).max(scratch(1 << 20, 1 << 20)).max(scratch(1 << 20, 1 << 10));
    assert!(most * 4 < 8 << 20, "{most} floats");
}

/// With denormals flushed by the caller and not by the helpers, bits would depend on who did what.
#[test]
fn denormals_come_out_the_same_whatever_the_caller_s_float_state() {
    for entry in entries() {
        for q_len in [1, 64] {
            let mut dense = Dense::new(Case::plain(q_len, 900, 4, 2, 64).shape, 17);
            dense.value.iter_mut().for_each(|x| *x *= 1e-39);
            if !dense.run(entry) {
                continue;
            }
            let want: Vec<u32> = dense.output.iter().map(|x| x.to_bits()).collect();
            assert!(dense.output.iter().any(|x| x.is_subnormal()));
            flushing_denormals(|| dense.run(entry));
            let got: Vec<u32> = dense.output.iter().map(|x| x.to_bits()).collect();
            assert!(got == want, "{}", entry.name());
        }
    }
}

#[test]
fn results_depend_on_threads_only_where_allowed_and_never_on_the_run() {
    let outputs: Vec<Vec<u32>> = [(1, true), (2, true), (7, true), (7, false), (7, false)]
        .iter()
        .map(|(count, deterministic)| {
            threads::set_count(*count).unwrap();
            let mut bits = vec![];
            for entry in entries() {
                for (q_len, kv_len) in [(1, 3000), (200, 900)] {
                    let mut random = Random(3);
                    let mut tensor = |rows: usize, heads: usize| {
                        let mut random = Random(random.next());
                        Buffer::new([1, rows, heads, 64], rows, &mut Random(1))
                            .fill(|| random.normal())
                    };
                    let (mut q, mut k, mut v) =
                        (tensor(q_len, 4), tensor(kv_len, 2), tensor(kv_len, 2));
                    let mut output = vec![0.0f32; q_len * 4 * 64];
                    let desc = kfa_attention_desc {
                        flags: if *deterministic { KFA_FLAG_DETERMINISTIC } else { 0 },
                        q_len: q_len as i32,
                        kv_len: kv_len as i32,
                        heads: 4,
                        kv_heads: 2,
                        head_dim: 64,
                        query: q.view(),
                        key: k.view(),
                        value: v.view(),
                        output: kfa_tensor_view {
                            data: output.as_mut_ptr().cast(),
                            ..crate::abi::NO_VIEW
                        },
                        ..DEFAULT_DESC
                    };
                    if run_entry(entry, &desc) {
                        bits.extend(output.iter().map(|x| x.to_bits()));
                    }
                }
            }
            bits
        })
        .collect();
    threads::set_count(2).unwrap();
    assert!(outputs[..3].iter().all(|bits| *bits == outputs[0]));
    assert!(outputs[3] == outputs[4]);
    assert!(outputs[3] != outputs[0], "seven threads should have cut the context finer");
}

#[test]
fn table_lists_flash_before_standard_and_strong_before_weak() {
    let order: Vec<(bool, u8)> = TABLE
        .iter()
        .map(|entry| (entry.algorithm.family == Mode::Standard, entry.kernels.level.strength))
        .collect();
    assert!(order.is_sorted_by_key(|(standard, _)| *standard));
    for names in TABLE.windows(2) {
        let [a, b] =
            [names[0].name(), names[1].name()].map(|name| name.rsplit_once('.').unwrap().0);
        assert!(a != b || names[0].kernels.level.strength > names[1].kernels.level.strength);
    }
    assert!(entries().any(|entry| entry.kernels.level.strength == 0));
}

/// Quiet and signalling, of either sign, with bits set where exponents are shifted to.
const NAN_PAYLOADS: [u32; 6] =
    [0x7fc0_0000, 0xffff_ffff, 0x7fc0_0001, 0x7f80_0001, 0xffc0_00ff, 0x7fff_ff81];

/// What [`Vector`] promises beyond arithmetic: which lane wins beside NaN, how many lanes partial
/// loads and stores touch, and what float32 numbers become in 16 bits.
///
/// # Safety
/// As [`Vector`].
pub unsafe fn vector_contract<V: Vector>() {
    let lanes_of = |vector: V| {
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: no vector is longer.
        unsafe { vector.store(lanes.as_mut_ptr()) };
        lanes[..V::LANES].to_vec()
    };
    let (nan, numbers) = (f32::NAN, [7.5f32; MAX_LANES]);
    // SAFETY: the caller's; the arrays hold whole vectors.
    unsafe {
        for (a, b, larger) in
            [(1.0, 2.0, 2.0), (-1.0, -2.0, -1.0), (nan, 2.0, 2.0), (1.0, nan, nan)]
        {
            let (left, right) = (V::splat(a), V::splat(b));
            let less = V::select_less(left, right, V::splat(10.0), V::splat(20.0));
            assert_eq!(lanes_of(less), vec![if a < b { 10.0 } else { 20.0 }; V::LANES]);
            let same = |got: &f32| got.to_bits() == f32::to_bits(larger);
            assert!(lanes_of(left.max(right)).iter().all(same), "max({a}, {b})");
        }
        for n in 0..=254u16 {
            let power = V::splat(ROUND + f32::from(n)).power_of_two();
            let want = f32::from_bits(u32::from(n) << 23);
            assert_eq!(lanes_of(power), vec![want; V::LANES]);
        }
        for (x, want) in [(0.0, 1.0), (-1.0, 0.5), (-125.0, 125f32.exp2().recip())]
            .into_iter()
            .chain([-125.6, -126.0, -127.0, -1e30, f32::NEG_INFINITY].map(|x| (x, 0.0)))
        {
            assert_eq!(lanes_of(exp2_nonpositive(V::splat(x))), vec![want; V::LANES], "2^{x}");
        }
        super::scores::tanh_contract::<V>();
        for payload in NAN_PAYLOADS {
            let powers = lanes_of(exp2_nonpositive(V::splat(f32::from_bits(payload))));
            assert!(powers.iter().all(|power| power.is_nan()), "2^NaN({payload:#x}) is {powers:?}");
        }
        for count in 0..V::LANES {
            let part = lanes_of(V::load_partial(numbers.as_ptr(), count));
            assert!(part.iter().enumerate().all(|(i, x)| *x == if i < count { 7.5 } else { 0.0 }));
            let mut stored = [0.0; MAX_LANES];
            V::load(numbers.as_ptr()).store_partial(stored.as_mut_ptr(), count);
            assert!(
                stored.iter().enumerate().all(|(i, x)| *x == if i < count { 7.5 } else { 0.0 })
            );
        }
        // Every 16-bit number, the half-way point to the next one, and the floats around that.
        for word in 0..=u16::MAX {
            for bits in [u32::from(word) << 16 | 0x8000, f16_half_way(word).to_bits()] {
                for value in [bits.wrapping_sub(1), bits, bits + 1].map(f32::from_bits) {
                    let vector = V::splat(value);
                    let (mut f16s, mut bf16s) = ([f16::ZERO; MAX_LANES], [bf16::ZERO; MAX_LANES]);
                    vector.store_f16(f16s.as_mut_ptr());
                    vector.store_bf16(bf16s.as_mut_ptr());
                    let (narrow, brief) = (f16::from_f32(value), bf16::from_f32(value));
                    for lane in 0..V::LANES {
                        let (got, got_brief) = (f16s[lane], bf16s[lane]);
                        assert!(
                            got.to_bits() == narrow.to_bits() || got.is_nan() && value.is_nan(),
                            "f16 of {value}"
                        );
                        assert!(
                            got_brief.to_bits() == brief.to_bits()
                                || got_brief.is_nan() && value.is_nan(),
                            "bf16 of {value}"
                        );
                    }
                }
            }
        }
    }
}

/// Half way from one float16 to the next, away from zero.
fn f16_half_way(word: u16) -> f32 {
    let [here, next] = [word, word.wrapping_add(1)].map(|word| f16::from_bits(word).to_f64());
    ((here + next) / 2.0) as f32
}

/// Evaluates the exponential of one instruction set through the only kernel step that is just it.
fn exp_through(kernels: &Kernels, x: f32) -> f32 {
    // Two keys with scores 0 and x ln 2, head_dim 1, values 0 and 1: output = 2^x / (1 + 2^x).
    let (mut q, mut k, mut v, mut out) = ([1.0f32], [0.0f32, x], [0.0f32, 1.0], [0.0f32]);
    let view = |data: &mut [f32]| kfa_tensor_view {
        data: data.as_mut_ptr().cast(),
        ..crate::abi::NO_VIEW
    };
    let desc = kfa_attention_desc {
        q_len: 1,
        kv_len: 2,
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
        softmax_scale: std::f32::consts::LN_2,
        query: view(&mut q),
        key: view(&mut k),
        value: view(&mut v),
        output: view(&mut out),
        ..DEFAULT_DESC
    };
    let problem = problem::of(&desc, Check::All).unwrap();
    let (task, combine) = (kernels.decode.prove(), kernels.decode_combine.prove());
    super::flash_decode::run(&problem, task.unwrap(), combine.unwrap()).unwrap();
    out[0]
}

#[test]
fn exponential_is_accurate_to_about_an_ulp() {
    // Where 2^x is tiny, 1 + 2^x is 1 and the kernel's output is 2^x itself.
    for entry in entries() {
        for step in 0..20_000 {
            let x = -25.5 - step as f32 * (125.5 - 25.5) / 20_000.0;
            let (got, want) = (exp_through(entry.kernels, x), f64::from(x).exp2());
            let ulp =
                f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
            let error = (f64::from(got) - want).abs() / ulp;
            assert!(error <= 1.25, "{}: 2^{x} is {got}, off by {error} ulp", entry.name());
        }
        for x in [-125.6, -126.0, -127.0, -1e30, f32::NEG_INFINITY] {
            assert_eq!(exp_through(entry.kernels, x), 0.0, "2^{x}");
        }
    }
}
