//! Watches for regressions: a few shapes through the C API, `cargo bench --no-default-features`.
//! tools/bench_cpu.py compares with other libraries and with what the machine can do.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::capi::attention::*;
use std::ffi::c_void;
use std::hint::black_box;

/// Slots of the cache beyond the valid keys.
const SPARE: usize = 64;

struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    q_len: usize,
    kv_len: usize,
}

impl Shape {
    fn new(heads: usize, kv_heads: usize, head_dim: usize, q_len: usize, kv_len: usize) -> Self {
        Self { heads, kv_heads, head_dim, q_len, kv_len }
    }

    fn name(&self) -> String {
        format!("{}_{}_{}/{}", self.heads, self.kv_heads, self.head_dim, self.kv_len)
    }

    /// Bytes of valid keys and values: what decode has to read.
    fn cache_bytes(&self) -> u64 {
        (2 * self.kv_len * self.kv_heads * self.head_dim * size_of::<f32>()) as u64
    }

    /// Useful operations of a causal prefill.
    fn flops(&self) -> u64 {
        (2 * self.heads * self.head_dim * self.q_len * (self.kv_len + 1)) as u64
    }
}

/// A problem with the memory that its description points to.
struct Problem {
    desc: kfa_attention_desc,
    _memory: [Vec<f32>; 5],
}

impl Problem {
    fn new(shape: &Shape, mode: kfa_attention_mode) -> Self {
        let row = shape.heads * shape.head_dim;
        let kv_row = shape.kv_heads * shape.head_dim;
        let mut query = values(shape.q_len * row, 1);
        let mut key = values((shape.kv_len + SPARE) * kv_row, 2);
        let mut value = values((shape.kv_len + SPARE) * kv_row, 3);
        let mut output = vec![f32::NAN; shape.q_len * row];

        let mut desc = std::mem::MaybeUninit::uninit();
        // SAFETY: init writes the whole description.
        let mut desc = unsafe {
            assert_eq!(
                kfa_attention_desc_init_sized(desc.as_mut_ptr(), size_of::<kfa_attention_desc>()),
                KFA_OK
            );
            desc.assume_init()
        };
        desc.mode = mode;
        desc.q_len = shape.q_len as i32;
        desc.kv_len = shape.kv_len as i32;
        desc.heads = shape.heads as i32;
        desc.kv_heads = shape.kv_heads as i32;
        desc.head_dim = shape.head_dim as i32;
        for (view, memory, row_stride) in [
            (&mut desc.query, &mut query, row),
            (&mut desc.key, &mut key, kv_row),
            (&mut desc.value, &mut value, kv_row),
            (&mut desc.output, &mut output, row),
        ] {
            view.data = memory.as_mut_ptr().cast::<c_void>();
            view.row_stride = row_stride as i64;
            view.head_stride = shape.head_dim as i64;
        }
        let mut bytes = 0;
        // SAFETY: both arguments are valid.
        let status = unsafe { kfa_attention_workspace_size(&desc, &mut bytes) };
        assert_eq!(status, KFA_OK);
        let mut workspace = vec![0.0; bytes.div_ceil(size_of::<f32>())];
        desc.workspace = workspace.as_mut_ptr().cast();
        desc.workspace_size = bytes;
        Self { desc, _memory: [query, key, value, output, workspace] }
    }

    fn run(&self) {
        // SAFETY: the memory lives as long as `self` and fits the description.
        let status = unsafe { kfa_attention_forward(black_box(&self.desc)) };
        assert_eq!(status, KFA_OK);
    }
}

/// Values within ±1.7, of variance 1, the same in every run.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 1.732
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// What a call costs before any arithmetic: asking, and a decode over one key.
fn host(c: &mut Criterion) {
    let mut group = c.benchmark_group("host");
    let problem = Problem::new(&Shape::new(1, 1, 8, 1, 1), KFA_ATTENTION_MODE_FLASH);
    group.bench_function("supported", |b| {
        // SAFETY: a whole description.
        b.iter(|| unsafe { kfa_attention_supported(black_box(&problem.desc)) });
    });
    group.bench_function("forward over one key", |b| b.iter(|| problem.run()));
    group.finish();
}

fn prefill(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefill");
    group.sample_size(20);
    for (heads, kv_heads, head_dim, length) in
        [(32, 32, 128, 512), (32, 8, 128, 512), (32, 32, 64, 512), (32, 8, 128, 1000)]
    {
        let shape = Shape::new(heads, kv_heads, head_dim, length, length);
        let problem = Problem::new(&shape, KFA_ATTENTION_MODE_FLASH);
        group.throughput(Throughput::Elements(shape.flops()));
        group.bench_function(shape.name(), |b| b.iter(|| problem.run()));
    }
    group.finish();
}

fn standard(c: &mut Criterion) {
    let mut group = c.benchmark_group("standard");
    group.sample_size(20);
    let shape = Shape::new(32, 8, 128, 512, 512);
    let problem = Problem::new(&shape, KFA_ATTENTION_MODE_STANDARD);
    group.throughput(Throughput::Elements(shape.flops()));
    group.bench_function(shape.name(), |b| b.iter(|| problem.run()));
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for kv_heads in [32, 8] {
        for kv_len in [128, 2048, 8192] {
            let shape = Shape::new(32, kv_heads, 128, 1, kv_len);
            let problem = Problem::new(&shape, KFA_ATTENTION_MODE_FLASH);
            group.throughput(Throughput::Bytes(shape.cache_bytes()));
            group.bench_function(shape.name(), |b| b.iter(|| problem.run()));
        }
    }
    group.finish();
}

criterion_group!(benches, host, prefill, decode, standard);
criterion_main!(benches);
