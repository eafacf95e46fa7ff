//! Level 2 of the API: the opaque layer.
#![allow(non_camel_case_types)]

use super::{answer, boundary, read, write};
use crate::abi::*;
use crate::engine::Geometry;
use crate::error::{Error, Result};
use crate::layer::{FlashAttentionLayer, INPUTS};
use std::ffi::c_void;

/// A flash attention layer; see `kfa_flash_attention_layer_create()`. One layer object serves all
/// layers of a model, one thread at a time.
pub struct kfa_flash_attention_layer(FlashAttentionLayer);

/// Creates a layer with the arguments of the engine's `op::FlashAttention`.
///
/// @param[in]  device       where tensors will lie.
/// @param[in]  layer_index  layer of the cache, as `kfa_flash_attention_layer_set_layer_idx()`.
/// @param[in]  kv_mul       query heads per key/value head.
/// @param[in]  kv_dim       `head_num / kv_mul * head_size`.
/// @param[in]  seq_len      the cache's capacity in tokens.
/// @param[in]  head_num     query heads.
/// @param[in]  head_size    elements per head.
/// @param[in]  scale        factor on the scores; 0 means `1 / sqrt(head_size)`.
/// @param[out] layer        receives the layer; untouched on an error.
///
/// # Safety
/// `layer` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_flash_attention_layer_create(
    device: kfa_device_type,
    layer_index: i32,
    kv_mul: i32,
    kv_dim: i32,
    seq_len: i32,
    head_num: i32,
    head_size: i32,
    scale: f32,
    layer: *mut *mut kfa_flash_attention_layer,
) -> kfa_status {
    boundary(|| {
        if layer.is_null() {
            return Err(Error::invalid("layer is NULL; expected where to write the handle"));
        }
        let kv_heads = Geometry::kv_heads_of(head_num, head_size, kv_mul, kv_dim)?;
        let geometry = Geometry::new(device, head_num, kv_heads, head_size, seq_len, scale, true)?;
        let created = kfa_flash_attention_layer(FlashAttentionLayer::new(geometry, layer_index)?);
        // SAFETY: the caller's.
        unsafe { write(layer, "layer", Box::into_raw(Box::new(created))) }
    })
}

/// Destroys a layer. NULL is allowed and does nothing.
///
/// # Safety
/// `layer` is NULL or a live layer that no thread uses; it is gone afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_flash_attention_layer_destroy(layer: *mut kfa_flash_attention_layer) {
    answer((), || {
        if !layer.is_null() {
            // SAFETY: the caller's; the pointer came from Box::into_raw.
            drop(unsafe { Box::from_raw(layer) });
        }
    });
}

/// Sets the absolute position of the newest query row; keys `0 ..= pos` are valid.
///
/// # Safety
/// `layer` is NULL or a live layer that no other thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_flash_attention_layer_set_pos(
    layer: *mut kfa_flash_attention_layer,
    pos: i32,
) -> kfa_status {
    // SAFETY: the caller's.
    boundary(|| unsafe { live(layer) }?.set_pos(pos))
}

/// Sets which layer of the caches the next forward reads.
///
/// # Safety
/// `layer` is NULL or a live layer that no other thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_flash_attention_layer_set_layer_idx(
    layer: *mut kfa_flash_attention_layer,
    layer_idx: i32,
) -> kfa_status {
    // SAFETY: the caller's.
    boundary(|| unsafe { live(layer) }?.set_layer_idx(layer_idx))
}

/// Sets an input tensor: 0 query, 1 key cache, 2 value cache. The description is copied, the
/// memory is not.
///
/// # Safety
/// `layer` is NULL or a live layer that no other thread uses; `tensor` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_flash_attention_layer_set_input(
    layer: *mut kfa_flash_attention_layer,
    index: i32,
    tensor: *const kfa_tensor,
) -> kfa_status {
    // SAFETY: the caller's.
    boundary(|| unsafe { live(layer)?.set_input(index, *read(tensor, "tensor")?) })
}

/// Sets the output tensor, index 0. It may be the query's memory.
///
/// # Safety
/// `layer` is NULL or a live layer that no other thread uses; `tensor` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_flash_attention_layer_set_output(
    layer: *mut kfa_flash_attention_layer,
    index: i32,
    tensor: *const kfa_tensor,
) -> kfa_status {
    // SAFETY: the caller's.
    boundary(|| unsafe { live(layer)?.set_output(index, *read(tensor, "tensor")?) })
}

/// Sets the CUDA stream that forward enqueues on; NULL (the default) on the CPU.
///
/// # Safety
/// `layer` is NULL or a live layer that no other thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_flash_attention_layer_set_stream(
    layer: *mut kfa_flash_attention_layer,
    stream: *mut c_void,
) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        unsafe { live(layer) }?.set_stream(stream);
        Ok(())
    })
}

/// Computes attention of the tensors that were set; the number of query rows follows from the
/// query's size. Tensors are checked here, and nothing is written on an error.
///
/// # Safety
/// `layer` is NULL or a live layer that no other thread uses; the tensors' memory is valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_flash_attention_layer_forward(
    layer: *mut kfa_flash_attention_layer,
) -> kfa_status {
    // SAFETY: the caller's.
    boundary(|| unsafe { live(layer) }?.forward())
}

/// Number of inputs of a layer: 3; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_flash_attention_layer_input_size(
    layer: *const kfa_flash_attention_layer,
) -> usize {
    if layer.is_null() { 0 } else { INPUTS }
}

/// Number of outputs of a layer: 1; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_flash_attention_layer_output_size(
    layer: *const kfa_flash_attention_layer,
) -> usize {
    usize::from(!layer.is_null())
}

/// # Safety
/// `layer` is NULL or a live layer that no other thread uses.
unsafe fn live<'a>(layer: *mut kfa_flash_attention_layer) -> Result<&'a mut FlashAttentionLayer> {
    // SAFETY: the caller's.
    let layer = unsafe { layer.as_mut() };
    layer.map(|layer| &mut layer.0).ok_or_else(|| {
        Error::invalid("layer is NULL; expected a handle from kfa_flash_attention_layer_create")
    })
}
