//! Level 3 of the API: the attention problem.

use super::{answer, boundary, recall, write};
use crate::abi::*;
use crate::error::{Error, Refusal, Status};
use crate::merge::Merge;
use crate::problem::{Check, Problem};
use crate::{dispatch, error, sized};
use std::ffi::c_char;

/// Fills a description of `size` bytes with its defaults: CPU, automatic mode, causal, batch 1,
/// float32 packed tensors, everything optional off. Sizes and data pointers are left 0.
/// `kfa_attention_desc_init()` is this with the size that the caller compiled.
///
/// @param[out] desc  the description to fill.
/// @param[in]  size  `sizeof(kfa_attention_desc)`.
///
/// # Safety
/// `desc` is NULL or may be written for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_desc_init_sized(
    desc: *mut kfa_attention_desc,
    size: usize,
) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        unsafe { sized::write(desc, &DEFAULT_DESC, size, FIRST_DESC_SIZE, "desc") }
    })
}

/// What programs call that were compiled against the first header, where this was no inline
/// function: fills as much as their struct holds.
///
/// # Safety
/// `desc` is NULL or may be written for the first release's size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_desc_init(desc: *mut kfa_attention_desc) -> kfa_status {
    // SAFETY: the caller's.
    unsafe { kfa_attention_desc_init_sized(desc, FIRST_DESC_SIZE) }
}

/// Computes attention.
///
/// On the CPU the call returns when the output is written. On CUDA it enqueues the work on
/// `stream` and returns; it never waits, allocates device memory or locks, and may be captured into
/// a CUDA graph. It runs in the calling thread's current context if that belongs to the tensors'
/// device, else in the device's primary context, and leaves the current context as it was. Tensors
/// must be memory of one device (managed memory serves too). On an error nothing is written.
///
/// Weighted values are summed in float32 before the sum is divided: where the number of keys that a
/// row sees times the largest magnitude of their values stays below 3.4e38, no finite value becomes
/// infinite; beyond it an output may be, although the mean is not.
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
        let problem = unsafe { problem::<Error>(desc, Check::All) }?;
        dispatch::run(&problem)
    })
}

/// Tells how many bytes of workspace `kfa_attention_forward()` needs for a problem.
///
/// Data pointers of tensors may still be NULL; pointers that switch a feature on (sinks, lengths) may
/// not. On CUDA this also loads the kernels, so that the first forward
/// does not have to. Flash prefill needs none, flash decode some where it splits
/// the keys, standard MHA `4 * batch * heads * q_len * kv_len` up to 256 MiB (and runs with
/// `4 * batch * heads * kv_len`).
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
            write(size, "size", dispatch::workspace(&problem)?.preferred)
        }
    })
}

/// Tells both how many bytes of workspace a problem needs at least and how many it likes to have, as
/// `kfa_attention_workspace_size()` says. With any size between the result is the same.
///
/// @param[in]  desc       the problem.
/// @param[out] min        bytes that `kfa_attention_forward()` does not run without.
/// @param[out] preferred  bytes with which it is fastest.
///
/// # Safety
/// `desc` is NULL or valid; `min` and `preferred` are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_workspace_bounds(
    desc: *const kfa_attention_desc,
    min: *mut usize,
    preferred: *mut usize,
) -> kfa_status {
    boundary(|| {
        // SAFETY: the caller's.
        let workspace = unsafe { dispatch::workspace(&problem(desc, Check::Shape)?)? };
        for (name, pointer) in [("min", min), ("preferred", preferred)] {
            if pointer.is_null() {
                return Err(Error::invalid(format!(
                    "{name} is NULL; expected where to write the result"
                )));
            }
        }
        // SAFETY: the caller's.
        unsafe {
            write(min, "min", workspace.min)?;
            write(preferred, "preferred", workspace.preferred)
        }
    })
}

/// Tells whether `kfa_attention_forward()` would serve a problem: `KFA_OK`, or the status that it
/// would answer. Leaves no message, allocates nothing and takes well under a microsecond on the CPU:
/// for hosts that ask of every node of a graph. `kfa_attention_explain()` says why.
///
/// Data pointers of tensors may still be NULL.
///
/// @param[in] desc  the problem.
///
/// # Safety
/// `desc` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_attention_supported(desc: *const kfa_attention_desc) -> kfa_status {
    answer(KFA_ERROR_INTERNAL, || {
        // SAFETY: the caller's.
        match unsafe { problem::<Status>(desc, Check::Shape) } {
            Err(status) => status as kfa_status,
            Ok(problem) if dispatch::serves(&problem) => KFA_OK,
            Ok(_) => KFA_ERROR_UNSUPPORTED,
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
        let problem = unsafe { problem::<Error>(desc, Check::Shape) }?;
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
/// Each part is weighted by e^LSE (2^LSE with `KFA_FLAG_LSE_BASE2`); this is exact up to float32
/// rounding. Parts that saw no key (LSE -infinity) are ignored, whatever their output holds; a row
/// without any other has output 0 and LSE -infinity. An LSE that no sum of exponentials has (NaN,
/// +infinity) makes its row's output and LSE NaN. A sink must have entered exactly one part.
///
/// On the CPU the call returns when the result is written, by the library's threads where it is
/// large. On CUDA the arrays of pointers lie in host memory and what they point to on the device; the
/// merge, of at most 64 parts of packed float32 with natural LSEs, is enqueued on `stream`.
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
            let desc: kfa_merge_desc =
                sized::read::<_, Error>(desc, &DEFAULT_MERGE_DESC, FIRST_MERGE_DESC_SIZE, "desc")?;
            dispatch::merge(&Merge::new(&desc)?)
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
/// `desc` is NULL or points to its own `struct_size` bytes; what it points to is valid for them.
pub(super) unsafe fn problem<E: Refusal>(
    desc: *const kfa_attention_desc,
    check: Check,
) -> error::Result<Problem, E> {
    // SAFETY: the caller's.
    unsafe {
        let desc = sized::read(desc, &DEFAULT_DESC, FIRST_DESC_SIZE, "desc")?;
        Problem::new(&desc, check)
    }
}
