//! The seams through every table entry: which keys a row sees, how long sequences are and where they
//! lie, what happens to a score, how a row ends. Random problems against the float64 oracle, with NaN
//! in every key and value that no row sees, and poisoned outputs.

use super::{Random, entries, run_entry, sweep_count};
use crate::abi::*;
use crate::cpu::table::Row;
use crate::problem::{self, Check};
use crate::reference::{Attention, Cache, Causal, Elements, Tensor};

#[derive(Debug, Default)]
struct Seams {
    batch: usize,
    q_len: usize,
    kv_len: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    value_head_dim: usize,
    causal: i32,
    window: usize,
    window_right: usize,
    chunk: usize,
    softcap: f32,
    span_ends: Vec<i32>,
    slopes: Vec<f32>,
    slopes_per_sequence: bool,
    sinks: Vec<f32>,
    base2: bool,
    q_lens: Vec<i32>,
    kv_lens: Vec<i32>,
    kv_starts: Vec<i32>,
    query_offsets: Vec<i32>,
    kv_offsets: Vec<i32>,
    cache_index: Vec<i32>,
    cache_batch: usize,
}

impl Seams {
    fn random(random: &mut Random) -> Self {
        let batch = 1 + random.below(3);
        let kv_len = 1 + random.length();
        let q_len = match random.below(3) {
            0 => 1,
            _ => 1 + random.below(kv_len.min(150) + 2),
        };
        let kv_heads = random.pick(&[1, 2, 3]);
        let heads = kv_heads * random.pick(&[1, 2, 3, 4, 8]);
        let head_dim = random.pick(&[1, 8, 24, 40, 64, 80, 128]);
        let mut s = Self { batch, q_len, kv_len, heads, kv_heads, head_dim, ..Self::default() };
        s.value_head_dim = random.pick(&[head_dim, head_dim, 16, 72]);
        s.cache_batch = batch;
        s.causal = random.pick(&[0, 1, 1, 2]);
        s.window = random.pick(&[0, 0, 1, 5, 17, 100]);
        s.window_right = if s.causal == 0 { random.pick(&[0, 1, 30]) } else { 0 };
        s.chunk = random.pick(&[0, 0, 0, 7, 64]);
        s.softcap = random.pick(&[0.0, 0.0, 2.0, 30.0]);
        s.base2 = random.below(3) == 0;
        let mut lengths = |most: usize| -> Vec<i32> {
            (0..batch).map(|_| random.below(most + 1) as i32).collect()
        };
        let (q, kv) = (lengths(q_len), lengths(kv_len));
        let starts = kv.iter().map(|kv| kv / 3).collect();
        let offsets = |lengths: &[i32]| {
            let mut all = vec![2];
            all.extend(lengths.iter().scan(2, |at, length| {
                *at += length;
                Some(*at)
            }));
            all
        };
        match random.below(6) {
            0 => (s.q_lens, s.kv_lens, s.kv_starts) = (q, kv, starts),
            1 => s.kv_lens = kv,
            2 => (s.query_offsets, s.kv_offsets) = (offsets(&q), offsets(&kv)),
            3 => {
                s.cache_batch = batch + 2;
                s.cache_index = (0..batch).map(|_| random.below(batch + 2) as i32).collect();
            }
            _ => {}
        }
        if s.causal != 0 && random.below(4) == 0 {
            s.span_ends = (0..s.query_rows())
                .map(|_| if random.below(2) == 0 { 0 } else { random.below(kv_len + 1) as i32 })
                .collect();
        }
        if random.below(3) == 0 {
            s.slopes_per_sequence = random.below(2) == 0;
            let count = if s.slopes_per_sequence { heads * batch } else { heads };
            s.slopes = (0..count).map(|_| random.normal().abs() * 0.1).collect();
        }
        if random.below(3) == 0 {
            s.sinks = (0..heads).map(|_| random.normal()).collect();
        }
        s
    }

    /// Rows of the query tensor.
    fn query_rows(&self) -> usize {
        self.query_offsets.last().map_or(self.batch * self.q_len, |end| *end as usize)
    }

    /// Rows of the key tensor.
    fn kv_rows(&self) -> usize {
        let dense = self.cache_batch * self.kv_len;
        self.kv_offsets.last().map_or(dense, |end| *end as usize).max(1)
    }

    fn check(&self, entry: &Row, seed: u64) {
        let mut random = Random(seed);
        let mut floats = |count: usize| (0..count).map(|_| random.normal()).collect::<Vec<f32>>();
        let mut query = floats(self.query_rows().max(1) * self.heads * self.head_dim);
        let mut key = floats(self.kv_rows() * self.kv_heads * self.head_dim);
        let mut value = floats(self.kv_rows() * self.kv_heads * self.value_head_dim);
        let rows = self.query_rows().max(1) * self.heads;
        let mut output = vec![f32::NAN; rows * self.value_head_dim];
        let mut lse = vec![f32::NAN; rows];
        fn or_null<T>(array: &[T]) -> *const T {
            if array.is_empty() { std::ptr::null() } else { array.as_ptr() }
        }
        let view = |data: &mut [f32]| kfa_tensor_view {
            data: data.as_mut_ptr().cast(),
            ..crate::abi::NO_VIEW
        };
        let desc = kfa_attention_desc {
            flags: if self.base2 { KFA_FLAG_LSE_BASE2 } else { 0 },
            is_causal: self.causal,
            batch: self.batch as i32,
            q_len: self.q_len as i32,
            kv_len: self.kv_len as i32,
            heads: self.heads as i32,
            kv_heads: self.kv_heads as i32,
            head_dim: self.head_dim as i32,
            value_head_dim: self.value_head_dim as i32,
            sliding_window: self.window as i32,
            window_right: self.window_right as i32,
            attention_chunk: self.chunk as i32,
            softcap: self.softcap,
            span_ends: or_null(&self.span_ends),
            alibi_slopes: or_null(&self.slopes),
            alibi_batch_stride: if self.slopes_per_sequence { self.heads as i64 } else { 0 },
            sinks: or_null(&self.sinks),
            q_lens: or_null(&self.q_lens),
            kv_lens: or_null(&self.kv_lens),
            kv_starts: or_null(&self.kv_starts),
            query_offsets: or_null(&self.query_offsets),
            kv_offsets: or_null(&self.kv_offsets),
            cache_index: or_null(&self.cache_index),
            cache_batch: if self.cache_index.is_empty() { 0 } else { self.cache_batch as i32 },
            query: view(&mut query),
            key: view(&mut key),
            value: view(&mut value),
            output: view(&mut output),
            lse: lse.as_mut_ptr(),
            ..DEFAULT_DESC
        };
        let p = problem::of(&desc, Check::All)
            .unwrap_or_else(|error| panic!("{}: {self:?}", error.message));

        // What no row of any sequence sees is NaN, for the kernel and the oracle alike.
        let mut seen = vec![false; self.kv_rows()];
        for b in 0..self.batch {
            // SAFETY: the arrays have an entry for every sequence and row.
            unsafe {
                let s = p.sequence(b);
                for row in 0..s.q_len {
                    let first =
                        s.cache_batch * self.kv_len * usize::from(self.kv_offsets.is_empty());
                    for key in p.visible.row(&s, row) {
                        seen[first + s.cache_row + key] = true;
                    }
                }
            }
        }
        for (row, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
            key[row * self.kv_heads * self.head_dim..][..self.kv_heads * self.head_dim]
                .fill(f32::NAN);
            value[row * self.kv_heads * self.value_head_dim..]
                [..self.kv_heads * self.value_head_dim]
                .fill(f32::NAN);
        }
        if !run_entry(entry, &desc) {
            return;
        }

        fn some<T>(array: &[T]) -> Option<&[T]> {
            (!array.is_empty()).then_some(array)
        }
        let tensor = |data, rows: usize, heads: usize, dim: usize| Tensor {
            data: Elements::F32(data),
            batch_stride: rows * heads * dim,
            row_stride: heads * dim,
            head_stride: dim,
        };
        let cache = |data, dim| Cache {
            tensor: tensor(data, self.kv_len, self.kv_heads, dim),
            ..Cache::default()
        };
        let oracle = Attention {
            batch: self.batch,
            q_len: self.q_len,
            kv_len: self.kv_len,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            value_head_dim: self.value_head_dim,
            softcap: self.softcap.into(),
            causal: [Causal::None, Causal::BottomRight, Causal::TopLeft][self.causal as usize],
            window: self.window,
            window_right: (self.window_right > 0).then_some(self.window_right),
            chunk: self.chunk,
            span_ends: some(&self.span_ends),
            q_lens: some(&self.q_lens),
            kv_lens: some(&self.kv_lens),
            kv_starts: some(&self.kv_starts),
            query_offsets: some(&self.query_offsets),
            kv_offsets: some(&self.kv_offsets),
            cache_index: some(&self.cache_index),
            alibi_slopes: some(&self.slopes)
                .map(|slopes| (slopes, if self.slopes_per_sequence { self.heads } else { 0 })),
            sinks: some(&self.sinks),
            lse_base2: self.base2,
            query: tensor(&query, self.q_len, self.heads, self.head_dim),
            key: cache(&key, self.head_dim),
            value: cache(&value, self.value_head_dim),
            ..Attention::default()
        };
        let mut written = vec![false; rows];
        for b in 0..self.batch {
            // SAFETY: as above.
            let s = unsafe { p.sequence(b) };
            for row in 0..s.q_len {
                for head in 0..self.heads {
                    let want = oracle.row(b, row, head);
                    let place = s.query_batch * self.q_len + s.query_row + row;
                    written[place * self.heads + head] = true;
                    let got = &output[(place * self.heads + head) * self.value_head_dim..];
                    let context =
                        || format!("{} seed {seed} [{b}, {row}, {head}]: {self:?}", entry.name());
                    for (got, want) in got.iter().zip(&want.output) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(error < 1e-5, "{got}, want {want}; {}", context());
                    }
                    // SAFETY: the row is one of the problem's.
                    let got =
                        f64::from(unsafe { *p.lse_at(s.query_batch, head, s.query_row + row) });
                    let close = (got - want.lse).abs() < 1e-5 * want.lse.abs().max(1.0);
                    assert!(
                        close || got == want.lse,
                        "LSE {got}, want {}; {}",
                        want.lse,
                        context()
                    );
                }
            }
        }
        for (row, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
            let output = &output[row * self.value_head_dim..][..self.value_head_dim];
            assert!(output.iter().all(|x| x.is_nan()), "row {row} is no row: {self:?}");
        }
    }
}

#[test]
fn random_problems_through_every_seam() {
    let mut random = Random(77);
    for seed in 0..sweep_count(300) {
        let problem = Seams::random(&mut random);
        for entry in entries() {
            problem.check(entry, seed);
        }
    }
}

/// A window's edge in the middle of tiles, blocks and register blocks, where every row of a panel
/// begins and ends elsewhere.
#[test]
fn window_edges_lie_anywhere() {
    for (seed, window) in [1, 2, 3, 11, 12, 13, 47, 48, 49, 95, 96, 97, 200].into_iter().enumerate()
    {
        for (heads, kv_heads) in [(1, 1), (3, 1), (8, 2)] {
            let problem = Seams {
                batch: 1,
                q_len: 250,
                kv_len: 260,
                heads,
                kv_heads,
                head_dim: 32,
                value_head_dim: 32,
                causal: 1,
                cache_batch: 1,
                window,
                ..Seams::default()
            };
            for entry in entries() {
                problem.check(entry, seed as u64);
            }
        }
    }
}

/// Decode over contexts that are cut into runs, of which a window leaves most without a key.
#[test]
fn a_window_over_a_context_of_many_runs() {
    for (window, softcap) in [(100, 0.0), (4097, 20.0), (0, 20.0)] {
        let problem = Seams {
            batch: 2,
            q_len: 1,
            kv_len: 9000,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            value_head_dim: 48,
            causal: 1,
            cache_batch: 2,
            window,
            softcap,
            kv_lens: vec![9000, 4000],
            sinks: vec![0.5, -1.0, 2.0, 0.0],
            slopes: vec![0.01, 0.0, 0.1, 0.002],
            ..Seams::default()
        };
        for entry in entries() {
            problem.check(entry, 5);
        }
    }
}
