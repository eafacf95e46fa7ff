//! The float64 oracle: attention by its definition, with nothing shared with the kernels.

/// A plain strided tensor `[batch, rows, heads, head_dim]` of float32.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub data: &'a [f32],
    pub batch_stride: usize,
    pub row_stride: usize,
    pub head_stride: usize,
}

/// The problem's shape; `kv_len` counts valid keys.
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

/// Output `[batch, q_len, heads, head_dim]` and LSE `[batch, heads, q_len]`, packed.
pub fn attention(shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> (Vec<f64>, Vec<f64>) {
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, scale, causal } = shape;
    let mut output = vec![0.0; batch * q_len * heads * head_dim];
    let mut lse = vec![f64::NEG_INFINITY; batch * heads * q_len];
    let at = |t: Tensor, b: usize, row: usize, head: usize, d: usize| {
        f64::from(t.data[b * t.batch_stride + row * t.row_stride + head * t.head_stride + d])
    };
    for b in 0..batch {
        for i in 0..q_len {
            // Bottom-right alignment: row i sits at position kv_len - q_len + i.
            let position = kv_len as i64 - q_len as i64 + i as i64;
            let visible = if causal { (position + 1).max(0) as usize } else { kv_len };
            for h in 0..heads {
                let kv_head = h / (heads / kv_heads);
                let scores: Vec<f64> = (0..visible)
                    .map(|j| {
                        let dot: f64 = (0..head_dim)
                            .map(|d| at(q, b, i, h, d) * at(k, b, j, kv_head, d))
                            .sum();
                        scale * dot
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                if visible == 0 {
                    continue;
                }
                lse[(b * heads + h) * q_len + i] = max + sum.ln();
                for (j, s) in scores.iter().enumerate() {
                    let weight = (s - max).exp() / sum;
                    for d in 0..head_dim {
                        output[((b * q_len + i) * heads + h) * head_dim + d] +=
                            weight * at(v, b, j, kv_head, d);
                    }
                }
            }
        }
    }
    (output, lse)
}
