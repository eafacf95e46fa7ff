//! candle's CPU attention behind C functions, for tools/bench_cpu.py: its flash attention and the
//! unfused softmax(QKᵀ)V that its models write out.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::attention::{AttnMask, flash_attn};
use std::slice;

pub struct Peer {
    query: Tensor,
    /// One pair per copy of the cache.
    cache: Vec<(Tensor, Tensor)>,
    /// Added to the scores, by the unfused kernel of a prefill.
    mask: Option<Tensor>,
    group: usize,
    dim: usize,
    flash: bool,
}

/// Copies packed `[q_len, heads, dim]` and `[kv_len, kv_heads, dim]`, `copies` of the latter.
///
/// # Safety
/// The pointers are valid for those shapes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_peer_new(
    q_len: usize,
    kv_len: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    copies: usize,
    flash: bool,
    query: *const f32,
    key: *const f32,
    value: *const f32,
) -> *mut Peer {
    let cpu = Device::Cpu;
    let tensor = |data: *const f32, rows: usize, heads: usize| {
        // SAFETY: the caller's promise.
        let data = unsafe { slice::from_raw_parts(data, rows * heads * dim) };
        let packed = Tensor::from_slice(data, (1, rows, heads, dim), &cpu)?;
        // The unfused kernel multiplies per head.
        if flash { Ok(packed) } else { packed.transpose(1, 2)?.contiguous() }
    };
    let mask = || -> Result<Option<Tensor>> {
        if flash || q_len == 1 {
            return Ok(None);
        }
        let hidden = |i, j| if j > i + kv_len - q_len { f32::NEG_INFINITY } else { 0.0 };
        let values: Vec<f32> =
            (0..q_len).flat_map(|i| (0..kv_len).map(move |j| hidden(i, j))).collect();
        Ok(Some(Tensor::from_vec(values, (1, 1, q_len, kv_len), &cpu)?))
    };
    let build = || -> Result<Peer> {
        let cache = (0..copies)
            .map(|_| Ok((tensor(key, kv_len, kv_heads)?, tensor(value, kv_len, kv_heads)?)))
            .collect::<Result<_>>()?;
        let query = tensor(query, q_len, heads)?;
        Ok(Peer { query, cache, mask: mask()?, group: heads / kv_heads, dim, flash })
    };
    Box::into_raw(Box::new(build().expect("candle tensors")))
}

impl Peer {
    /// `[1, heads, q_len, dim]`.
    fn attention(&self, copy: usize) -> Result<Tensor> {
        let (key, value) = &self.cache[copy];
        let scale = 1.0 / (self.dim as f32).sqrt();
        if self.flash {
            let offset = key.dim(1)? - self.query.dim(1)?;
            let mask = AttnMask::causal_with_offset(offset);
            return flash_attn::<f32>(&self.query, key, value, scale, mask, None, None);
        }
        let (batch, heads, q_len, dim) = self.query.dims4()?;
        // A group's query rows meet their key/value head in one product, so that none is copied.
        let query = self.query.reshape((batch, heads / self.group, self.group * q_len, dim))?;
        let mut scores = (query.matmul(&key.transpose(2, 3)?)? * f64::from(scale))?;
        if let Some(mask) = &self.mask {
            let kv_len = scores.dim(D::Minus1)?;
            scores = scores.reshape((batch, heads, q_len, kv_len))?.broadcast_add(mask)?;
            scores = scores.reshape((batch, heads / self.group, self.group * q_len, kv_len))?;
        }
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        weights.matmul(value)?.reshape((batch, heads, q_len, dim))
    }
}

/// Runs once over one copy of the cache; where `output` is not NULL, writes `[heads, q_len, dim]`.
///
/// # Safety
/// `peer` is live; `output` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_peer_run(peer: *const Peer, copy: usize, output: *mut f32) -> i32 {
    // SAFETY: the caller's promise.
    let result = unsafe { &*peer }.attention(copy).and_then(|out| {
        if output.is_null() {
            return Ok(());
        }
        let values = out.flatten_all()?.to_vec1::<f32>()?;
        // SAFETY: the caller's promise.
        unsafe { slice::from_raw_parts_mut(output, values.len()) }.copy_from_slice(&values);
        Ok(())
    });
    if let Err(error) = &result {
        eprintln!("candle: {error}");
    }
    result.is_err().into()
}

/// # Safety
/// `peer` came from `candle_peer_new`, once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_peer_free(peer: *mut Peer) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(peer) });
}
