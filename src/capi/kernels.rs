//! Level 2 of the API: the engine's kernel getters.

use super::{boundary, read};
use crate::abi::*;
use crate::engine::{Call, FLASH_NAMES, Geometry, MHA_NAMES};
use crate::problem::Device;
use crate::{cuda, dispatch};
use std::cell::RefCell;
use std::ffi::c_void;

thread_local! {
    /// Split states of flash decode on the CPU; grows, and is kept.
    static WORKSPACE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The same on GPUs. For the whole process: a stream may be fed by several threads, and a captured
/// graph may outlive the thread that captured it.
static DEVICE_SCRATCH: cuda::DeviceScratch = cuda::DeviceScratch::new();

/// Returns the flash attention kernel of a device, which falls back to standard MHA (with one
/// logged reason) where flash cannot serve and `kfa_set_attention_mode()` permits.
///
/// @param[in] device  where the tensors will lie.
/// @return the kernel; NULL with a message in `kfa_last_error_message()` where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_get_flash_attention_kernel(
    device: kfa_device_type,
) -> kfa_flash_attention_kernel {
    if has_kernels(device) { Some(flash_attention) } else { None }
}

/// Returns the standard MHA kernel of a device: the baseline, with the engine's score storage.
///
/// @param[in] device  where the tensors will lie.
/// @return the kernel; NULL with a message in `kfa_last_error_message()` where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_get_mha_kernel(device: kfa_device_type) -> kfa_mha_kernel {
    if has_kernels(device) { Some(mha) } else { None }
}

fn has_kernels(device: kfa_device_type) -> bool {
    let found = boundary(|| dispatch::available(Device::from_c(device, "device")?));
    found == KFA_OK
}

unsafe extern "C" fn flash_attention(
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
) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        let call = unsafe {
            Call {
                names: &FLASH_NAMES,
                query: *read(query, "query")?,
                key: *read(key, "key")?,
                value: *read(value, "value")?,
                output: *read(output, "output")?,
                pos,
                layer_idx,
                mode: KFA_ATTENTION_MODE_AUTO,
                stream,
            }
        };
        let geometry = Geometry::new(
            device,
            head_num,
            kv_head_num,
            head_size,
            seq_len,
            softmax_scale,
            is_causal,
        )?;
        match geometry.device {
            Device::Cpu => {
                WORKSPACE.with(|workspace| call.run_on_cpu(&geometry, &mut workspace.borrow_mut()))
            }
            Device::Cuda => call.run_on_cuda(&geometry, &DEVICE_SCRATCH),
        }
    })
}

unsafe extern "C" fn mha(
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
) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        let (call, score) = unsafe {
            let call = Call {
                names: &MHA_NAMES,
                query: *read(query, "query")?,
                key: *read(key_cache, "key_cache")?,
                value: *read(value_cache, "value_cache")?,
                output: *read(mha_out, "mha_out")?,
                pos,
                layer_idx: layer_index,
                mode: KFA_ATTENTION_MODE_STANDARD,
                stream,
            };
            (call, read(score, "score")?)
        };
        let kv_heads = Geometry::kv_heads_of(head_num, head_size, kv_mul, kv_dim)?;
        let geometry = Geometry::new(device, head_num, kv_heads, head_size, seq_len, 0.0, true)?;
        call.run_with_scores(&geometry, score)
    })
}
