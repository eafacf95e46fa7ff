//! Level 2 of the API: the engine's kernel getters.

use super::attention::problem;
use super::{boundary, read};
use crate::abi::*;
use crate::engine::{Call, FLASH_NAMES, Geometry, MHA_NAMES};
use crate::error::{Error, Result};
use crate::problem::{Check, Device, Problem};
use crate::{cpu, cuda, dispatch};
use std::cell::Cell;
use std::ffi::c_void;

thread_local! {
    /// Split states of flash decode on the CPU; grows, and is kept. A thread that has already
    /// destroyed its variables, as it ends, makes one for the call.
    static WORKSPACE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
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

/// Returns the kernel that an engine calls as its MHA kernel: flash attention wherever it can serve,
/// which leaves the score storage alone, else standard MHA in it. `kfa_set_attention_mode()` and
/// `KFA_DISABLE_FLASH_ATTENTION=1` pin standard MHA; `kfa_last_kernel_name()` tells which ran.
///
/// @param[in] device  where the tensors will lie.
/// @return the kernel; NULL with a message in `kfa_last_error_message()` where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_get_mha_kernel(device: kfa_device_type) -> kfa_mha_kernel {
    if has_kernels(device) { Some(mha) } else { None }
}

/// Returns the standard MHA kernel of a device, whatever the attention mode: the baseline that flash
/// attention is measured against.
///
/// @param[in] device  where the tensors will lie.
/// @return the kernel; NULL with a message in `kfa_last_error_message()` where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_get_standard_mha_kernel(device: kfa_device_type) -> kfa_mha_kernel {
    if has_kernels(device) { Some(standard_mha) } else { None }
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
        run_in_scratch(call.problem(&geometry, None)?, geometry.seq_len)
    })
}

/// Runs a problem in the working memory of this thread (CPU) or of its stream (CUDA).
fn run_in_scratch(problem: Problem, kv_capacity: usize) -> Result<()> {
    match problem.device {
        Device::Cpu => {
            let mut workspace = WORKSPACE.try_with(Cell::take).unwrap_or_default();
            let result = cpu::run_in(&problem, &mut workspace);
            let _ = WORKSPACE.try_with(|kept| kept.set(workspace));
            result
        }
        Device::Cuda => cuda::run_in(&problem, kv_capacity, &DEVICE_SCRATCH),
    }
}

/// The two MHA kernels, which differ in what their calls are allowed to choose.
macro_rules! mha_kernel {
    ($name:ident, $mode:expr) => {
        unsafe extern "C" fn $name(
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
                        mode: $mode,
                        stream,
                    };
                    (call, score.as_ref())
                };
                let kv_heads = Geometry::kv_heads_of(head_num, head_size, kv_mul, kv_dim)?;
                let geometry =
                    Geometry::new(device, head_num, kv_heads, head_size, seq_len, 0.0, true)?;
                run_in_scratch(call.problem(&geometry, score)?, geometry.seq_len)
            })
        }
    };
}

mha_kernel!(mha, KFA_ATTENTION_MODE_AUTO);
mha_kernel!(standard_mha, KFA_ATTENTION_MODE_STANDARD);

/// Computes attention as `kfa_attention_forward()` does, in working memory that the library keeps:
/// of the calling thread on the CPU, of the stream on CUDA. It is allocated by the first call and
/// kept, so that later calls, those inside a stream capture included, allocate nothing.
///
/// @param[in] desc         the problem; its workspace is NULL.
/// @param[in] kv_capacity  what `kv_len` may grow to in later calls, such as the cache's capacity,
///                         or 0; lets the first call allocate for all of them.
///
/// # Safety
/// As for `kfa_attention_forward()`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_forward_in_scratch(
    desc: *const kfa_attention_desc,
    kv_capacity: i32,
) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        let problem = unsafe { problem::<Error>(desc, Check::All) }?;
        if problem.workspace_size > 0 || !problem.workspace.is_null() {
            return Err(Error::invalid(
                "workspace is set; expected NULL and workspace_size 0, as the library brings its own",
            ));
        }
        if kv_capacity < 0 {
            return Err(Error::invalid(format!(
                "kv_capacity is {kv_capacity}; expected 0 or more"
            )));
        }
        run_in_scratch(problem, kv_capacity as usize)
    })
}

/// Does ahead of time what the first call on a device would take longer for: starts the threads of
/// the CPU, or loads the kernels into the current CUDA device (some milliseconds), or into the first
/// one where none is current. Optional, and again cheap; call it where the model is loaded.
///
/// @param[in] device  where the tensors will lie.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_warm_up(device: kfa_device_type) -> kfa_status {
    boundary(|| dispatch::warm_up(Device::from_c(device, "device")?))
}
