//! The float64 oracle: attention by its definition, with nothing shared with the kernels.
//!
//! It knows no tile, no plan and none of this crate's other modules, so that it can be wrong only
//! where its reading of the contract is. One row is computed at a time: [`Attention::row`].

mod cache;
mod elements;
mod mask;
mod merge;
#[cfg(test)]
mod tests;
mod visible;

pub use cache::{Cache, Pages, Quant, Tensor};
pub use elements::Elements;
pub use mask::{Mask, MaskKind};
pub use merge::merge;
pub use visible::{Causal, Sequence};

/// One attention problem over memory as the caller lays it out.
///
/// `Default` is a causal problem with no sizes and no tensors, and everything optional off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention<'a> {
    /// Sequences.
    pub batch: usize,
    /// Query rows of each sequence, or the bound on them where `q_lens` or `query_offsets` is set.
    pub q_len: usize,
    /// Keys of each sequence, or the bound on them where `kv_lens` or `kv_offsets` is set.
    pub kv_len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub value_head_dim: usize,
    /// Factor on the scores; 0 means `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// Scores become `softcap · tanh(score / softcap)`; 0 is off.
    pub softcap: f64,

    pub causal: Causal,
    /// The row's newest keys that it sees, its own included; 0 is off.
    pub window: usize,
    /// Keys after its own that a row sees where not causal; `None` is off.
    pub window_right: Option<usize>,
    /// Only keys with the same `key / chunk` as the row's position; 0 is off.
    pub chunk: usize,
    /// The end of the keys that a row sees although causal, `[batch, q_len]` or packed like the
    /// queries; 0 for rows of no span.
    pub span_ends: Option<&'a [i32]>,

    /// Rows, keys and the first valid key of each sequence.
    pub q_lens: Option<&'a [i32]>,
    pub kv_lens: Option<&'a [i32]>,
    pub kv_starts: Option<&'a [i32]>,
    /// Where each sequence's rows and keys begin in a packed tensor, and the last one's end.
    pub query_offsets: Option<&'a [i32]>,
    pub kv_offsets: Option<&'a [i32]>,
    /// Each sequence's entry of the cache's batch axis.
    pub cache_index: Option<&'a [i32]>,

    /// Slope per head, and how many slopes lie between two sequences.
    pub alibi_slopes: Option<(&'a [f32], usize)>,
    pub mask: Option<Mask<'a>>,
    /// A further logit per head, in the denominator alone.
    pub sinks: Option<&'a [f32]>,
    /// LSE in base 2.
    pub lse_base2: bool,

    pub query: Tensor<'a>,
    pub key: Cache<'a>,
    pub value: Cache<'a>,
}

/// The result of one query row of one head.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub output: Vec<f64>,
    pub lse: f64,
}

impl Attention<'_> {
    /// Row `row` of sequence `batch`, which has [`Sequence::q_len`] of them.
    pub fn row(&self, batch: usize, row: usize, head: usize) -> Row {
        let sequence = self.sequence(batch);
        let kv_head = head / (self.heads / self.kv_heads);
        let mut query = vec![0.0; self.head_dim];
        self.query.read(sequence.query_batch, sequence.first_query + row, head, &mut query);

        let mut key = vec![0.0; self.head_dim];
        let mut scores = vec![];
        for k in self.visible(&sequence, row) {
            let bias = match &self.mask {
                None => Some(0.0),
                Some(mask) => mask.at(batch, head, row, k, &sequence),
            };
            // Hidden: it does not exist, and its memory is not looked at.
            let Some(bias) = bias else { continue };
            self.key.read(&sequence, k, kv_head, &mut key);
            scores.push((k, self.score(&query, &key) + self.alibi(&sequence, row, head, k) + bias));
        }
        self.finish(&sequence, head, kv_head, &scores)
    }

    fn score(&self, query: &[f64], key: &[f64]) -> f64 {
        let scale =
            if self.scale == 0.0 { 1.0 / (self.head_dim as f64).sqrt() } else { self.scale };
        let score = scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
        if self.softcap == 0.0 { score } else { self.softcap * (score / self.softcap).tanh() }
    }

    fn alibi(&self, sequence: &Sequence, row: usize, head: usize, key: usize) -> f64 {
        let Some((slopes, stride)) = self.alibi_slopes else { return 0.0 };
        let distance = (sequence.position(row) - key as i64).abs();
        -f64::from(slopes[sequence.batch * stride + head]) * distance as f64
    }

    /// Softmax over the scores and the sink, and the weighted sum of the values.
    fn finish(
        &self,
        sequence: &Sequence,
        head: usize,
        kv_head: usize,
        scores: &[(usize, f64)],
    ) -> Row {
        let sink = self.sinks.map_or(f64::NEG_INFINITY, |sinks| f64::from(sinks[head]));
        let base = if self.lse_base2 { std::f64::consts::LN_2 } else { 1.0 };
        let mut output = vec![0.0; self.value_head_dim];
        if sink.is_nan() || scores.iter().any(|(_, score)| score.is_nan()) {
            return Row { output: vec![f64::NAN; self.value_head_dim], lse: f64::NAN };
        }
        if scores.iter().all(|(_, score)| *score == f64::NEG_INFINITY) {
            return Row { output, lse: sink / base };
        }
        let max = scores.iter().fold(sink, |max, (_, score)| max.max(*score));
        let exp = |score: f64| (score - max).exp();
        let sum = exp(sink) + scores.iter().map(|(_, score)| exp(*score)).sum::<f64>();
        let mut value = vec![0.0; self.value_head_dim];
        for (key, score) in scores {
            self.value.read(sequence, *key, kv_head, &mut value);
            for (out, v) in output.iter_mut().zip(&value) {
                *out += exp(*score) / sum * v;
            }
        }
        Row { output, lse: (max + sum.ln()) / base }
    }
}

/// The shape of a plain problem; `kv_len` counts valid keys.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub batch: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f64,
    pub causal: bool,
}

/// A plain problem: output `[batch, q_len, heads, head_dim]` and LSE `[batch, heads, q_len]`, packed.
pub fn attention(shape: Shape, query: Tensor, key: Tensor, value: Tensor) -> (Vec<f64>, Vec<f64>) {
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, scale, causal } = shape;
    let causal = if causal { Causal::BottomRight } else { Causal::None };
    let value_head_dim = head_dim;
    let [key, value] = [key, value].map(|tensor| Cache { tensor, ..Cache::default() });
    Attention {
        batch,
        q_len,
        kv_len,
        heads,
        kv_heads,
        head_dim,
        value_head_dim,
        scale,
        causal,
        query,
        key,
        value,
        ..Attention::default()
    }
    .all()
}

impl Attention<'_> {
    /// Every row: output `[batch, q_len, heads, value_head_dim]` and LSE `[batch, heads, q_len]`,
    /// packed; NaN in rows that a sequence does not have.
    pub fn all(&self) -> (Vec<f64>, Vec<f64>) {
        let mut output = vec![f64::NAN; self.batch * self.q_len * self.heads * self.value_head_dim];
        let mut lse = vec![f64::NAN; self.batch * self.heads * self.q_len];
        for batch in 0..self.batch {
            for row in 0..self.sequence(batch).q_len {
                for head in 0..self.heads {
                    let result = self.row(batch, row, head);
                    let at = ((batch * self.q_len + row) * self.heads + head) * self.value_head_dim;
                    output[at..][..self.value_head_dim].copy_from_slice(&result.output);
                    lse[(batch * self.heads + head) * self.q_len + row] = result.lse;
                }
            }
        }
        (output, lse)
    }
}
