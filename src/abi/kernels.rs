//! The signatures of the engine.

use super::*;
use std::ffi::c_void;

/// Flash attention over the engine's tensors, of type float32, float16 or bfloat16; see
/// `kfa_get_flash_attention_kernel()`.
///
/// - `query`: `[q_len, head_num, head_size]`, flat; `q_len = query->size / (head_num * head_size)`.
/// - `key`, `value`: caches `[layer_num, seq_len, kv_head_num * head_size]`.
/// - `output`: like `query`; may be the same memory.
/// - `seq_len`: the cache's capacity in tokens (its layer stride), not the valid keys.
/// - `pos`: position of the newest query row, so keys `0 ..= pos` are valid.
/// - `layer_idx`: which layer of the caches.
/// - `softmax_scale`: 0 means `1 / sqrt(head_size)`.
/// - `stream`: CUDA stream, NULL on the CPU.
pub type kfa_flash_attention_kernel = Option<
    unsafe extern "C" fn(
        query: *const kfa_tensor,
        key: *const kfa_tensor,
        value: *const kfa_tensor,
        output: *const kfa_tensor,
        head_num: i32,
        kv_head_num: i32,
        head_size: i32,
        seq_len: i32,
        pos: i32,
        layer_idx: i32,
        softmax_scale: f32,
        is_causal: bool,
        device: kfa_device_type,
        stream: *mut c_void,
    ) -> kfa_status,
>;

/// Multi-head attention over the engine's tensors; see `kfa_get_mha_kernel()` and
/// `kfa_get_standard_mha_kernel()`.
///
/// - `mha_out`, `query`: `[q_len, head_num, head_size]`, flat.
/// - `score`: score storage, used by standard MHA alone: at least `head_num * seq_len` float32
///   elements, rows being processed as many at a time as it holds, and all at once from
///   `head_num * q_len * seq_len`. NULL, or a tensor without data: the library brings its own.
/// - `key_cache`, `value_cache`: `[layer_num, seq_len, kv_dim]`.
/// - `kv_mul`: query heads per key/value head.
pub type kfa_mha_kernel = Option<
    unsafe extern "C" fn(
        pos: i32,
        head_num: i32,
        layer_index: i32,
        seq_len: i32,
        kv_dim: i32,
        kv_mul: i32,
        head_size: i32,
        mha_out: *const kfa_tensor,
        query: *const kfa_tensor,
        score: *const kfa_tensor,
        key_cache: *const kfa_tensor,
        value_cache: *const kfa_tensor,
        device: kfa_device_type,
        stream: *mut c_void,
    ) -> kfa_status,
>;
