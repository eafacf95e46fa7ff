//! Level 3 of the API: the attention problem.

use super::{boundary, read, recall, write};
use crate::abi::*;
use crate::error::Error;
use crate::merge;
use crate::problem::{Check, Problem, check_struct_size};
use crate::{dispatch, error};
use std::ffi::c_char;

/// Fills a description with its defaults: CPU, automatic mode, causal, batch 1, float32 packed
/// tensors, everything optional off. Sizes and data pointers are left 0.
///
/// @param[out] desc  the description to fill.
///
/// # Safety
/// `desc` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_desc_init(desc: *mut kfa_attention_desc) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        unsafe { write(desc, "desc", DEFAULT_DESC) }
    })
}

/// Computes attention.
///
/// On the CPU the call returns when the output is written. On CUDA it enqueues the work on
/// `stream` and returns; it never waits, allocates device memory or locks, and may be captured into
/// a CUDA graph. It runs in the calling thread's current context if that belongs to the tensors'
/// device, else in the device's primary context, and leaves the current context as it was. Tensors
/// must be memory of one device (managed memory serves too). On an error nothing is written.
///
/// @param[in] desc  the problem; see `kfa_attention_desc`.
/// @return `KFA_OK`, or a status whose message `kfa_last_error_message()` holds.
///
/// # Safety
/// The tensors are valid for the shapes and strides in `desc`; no other thread writes them or
/// touches output, LSE or workspace during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_forward(desc: *const kfa_attention_desc) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        let problem = unsafe { problem(desc, Check::All) }?;
        dispatch::run(&problem)
    })
}

/// Tells how many bytes of workspace `kfa_attention_forward()` needs for a problem.
///
/// Data pointers may still be NULL. On CUDA this also loads the kernels, so that the first forward
/// does not have to. Flash prefill needs none, flash decode some where it splits
/// the keys, standard MHA `4 * batch * heads * q_len * kv_len` (and runs with a `q_len`-th of it).
///
/// @param[in]  desc  the problem.
/// @param[out] size  bytes.
///
/// # Safety
/// `desc` is NULL or valid; `size` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_workspace_size(
    desc: *const kfa_attention_desc,
    size: *mut usize,
) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        unsafe {
            let problem = problem(desc, Check::Shape)?;
            write(size, "size", dispatch::workspace_size(&problem)?)
        }
    })
}

/// Explains which kernel would serve a problem: its name on the first line, then one line for each
/// kernel passed over with the reason. Where none would, the first line starts with `none`.
///
/// Data pointers may still be NULL. Works like `snprintf`: writes at most `capacity` bytes with
/// the terminating NUL, and tells the whole text's size.
///
/// @param[in]  desc      the problem.
/// @param[out] text      buffer, or NULL if `capacity` is 0.
/// @param[in]  capacity  bytes at `text`.
/// @param[out] size      bytes of the whole text with its NUL, or NULL.
///
/// # Safety
/// `desc` is NULL or valid; `text` may be written for `capacity` bytes; `size` is NULL or may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_explain(
    desc: *const kfa_attention_desc,
    text: *mut c_char,
    capacity: usize,
    size: *mut usize,
) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        let problem = unsafe { problem(desc, Check::Shape) }?;
        if text.is_null() && capacity > 0 {
            return Err(Error::invalid(format!(
                "text is NULL; expected a buffer of capacity ({capacity}) bytes"
            )));
        }
        let explanation = dispatch::explain(&problem);
        let copied = explanation.len().min(capacity.saturating_sub(1));
        // SAFETY: the caller's buffer holds `capacity` bytes, and `copied < capacity`.
        unsafe {
            if capacity > 0 {
                text.copy_from_nonoverlapping(explanation.as_ptr().cast(), copied);
                text.add(copied).write(0);
            }
            if !size.is_null() {
                size.write(explanation.len() + 1);
            }
        }
        Ok(())
    })
}

/// Merges attention results over disjoint sets of keys into the result over all of them.
///
/// Each part is weighted by e^LSE; this is exact up to float32 rounding. Parts that saw no key
/// (LSE -infinity) are ignored, whatever their output holds. On CUDA the arrays of pointers lie in
/// host memory and what they point to on the device; the merge, of at most 64 parts, is enqueued on
/// `stream`.
///
/// @param[in] desc  the partial results; see `kfa_merge_desc`.
///
/// # Safety
/// The arrays are valid for the shapes in `desc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_merge(desc: *const kfa_merge_desc) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        unsafe {
            let desc = read(desc, "desc")?;
            check_struct_size(desc.struct_size, size_of::<kfa_merge_desc>(), "desc")?;
            merge::merge(desc)
        }
    })
}

/// Names the kernel that served this thread's last successful attention call, such as
/// `cpu.flash_decode.avx2`; empty before the first. Never NULL; valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_last_kernel_name() -> *const c_char {
    recall(c"", error::last_kernel).as_ptr()
}

/// Validates a description behind a pointer.
///
/// # Safety
/// `desc` is NULL or points to its own `struct_size` bytes.
pub(super) unsafe fn problem(
    desc: *const kfa_attention_desc,
    check: Check,
) -> crate::error::Result<Problem> {
    // SAFETY: only the first field is read before the caller's struct is known to be whole.
    unsafe {
        let struct_size = *read(desc.cast::<u32>(), "desc")?;
        check_struct_size(struct_size, size_of::<kfa_attention_desc>(), "desc")?;
        Problem::new(&*desc, check)
    }
}
