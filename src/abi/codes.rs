//! Numbers: statuses, devices, types, modes, flags. And where warnings go.

use std::ffi::{c_char, c_void};

/// Result of a call: `KFA_OK` or one of the `KFA_ERROR_*` codes.
pub type kfa_status = i32;
/// The call did what it says.
pub const KFA_OK: kfa_status = 0;
/// An argument is wrong; `kfa_last_error_message()` names it. Nothing was written.
pub const KFA_ERROR_INVALID_ARGUMENT: kfa_status = 1;
/// The request is valid, but no kernel of this build and machine serves it. Nothing was written.
pub const KFA_ERROR_UNSUPPORTED: kfa_status = 2;
/// The requested device is not there, or this build has no backend for it.
pub const KFA_ERROR_NO_DEVICE: kfa_status = 3;
/// The CUDA driver reported an error; the message holds its name and text.
pub const KFA_ERROR_CUDA: kfa_status = 4;
/// Memory could not be allocated.
pub const KFA_ERROR_OUT_OF_MEMORY: kfa_status = 5;
/// A defect of this library; please report it with the message.
pub const KFA_ERROR_INTERNAL: kfa_status = 6;

/// Where tensors lie; the numbers are the engine's `base::DeviceType`.
pub type kfa_device_type = i32;
/// No device: always refused.
pub const KFA_DEVICE_UNKNOWN: kfa_device_type = 0;
/// Host memory, computed by CPU threads.
pub const KFA_DEVICE_CPU: kfa_device_type = 1;
/// Memory of a CUDA device.
pub const KFA_DEVICE_CUDA: kfa_device_type = 2;
/// Memory of a ROCm device; this version has no backend for it.
pub const KFA_DEVICE_ROCM: kfa_device_type = 3;
/// Memory of an Intel GPU; this version has no backend for it.
pub const KFA_DEVICE_XPU: kfa_device_type = 4;

/// Element type; the first numbers are the engine's `base::DataType`. Of a packed type, strides
/// count elements; of a block type, blocks, and a head holds whole blocks.
pub type kfa_dtype = i32;
/// No type: always refused.
pub const KFA_DTYPE_UNKNOWN: kfa_dtype = 0;
/// IEEE 754 binary32.
pub const KFA_DTYPE_FP32: kfa_dtype = 1;
/// 8-bit signed integer.
pub const KFA_DTYPE_INT8: kfa_dtype = 2;
/// 32-bit signed integer.
pub const KFA_DTYPE_INT32: kfa_dtype = 3;
/// IEEE 754 binary16.
pub const KFA_DTYPE_FP16: kfa_dtype = 4;
/// bfloat16: the upper half of a binary32.
pub const KFA_DTYPE_BF16: kfa_dtype = 5;
/// 8-bit float with 4 exponent bits.
pub const KFA_DTYPE_FP8_E4M3: kfa_dtype = 6;
/// 8-bit float with 5 exponent bits.
pub const KFA_DTYPE_FP8_E5M2: kfa_dtype = 7;
/// 4-bit signed integer, two in a byte, the first in the lower half; strides are even.
pub const KFA_DTYPE_INT4: kfa_dtype = 8;
/// 4-bit unsigned integer, packed like `KFA_DTYPE_INT4`.
pub const KFA_DTYPE_UINT4: kfa_dtype = 9;
/// 8-bit unsigned integer.
pub const KFA_DTYPE_UINT8: kfa_dtype = 10;
/// ggml's block of 32 4-bit integers and a scale. Block types are 32 + ggml's own number.
pub const KFA_DTYPE_Q4_0: kfa_dtype = 34;
/// ggml's block of 32 4-bit integers, a scale and a minimum.
pub const KFA_DTYPE_Q4_1: kfa_dtype = 35;
/// ggml's block of 32 5-bit integers and a scale.
pub const KFA_DTYPE_Q5_0: kfa_dtype = 38;
/// ggml's block of 32 5-bit integers, a scale and a minimum.
pub const KFA_DTYPE_Q5_1: kfa_dtype = 39;
/// ggml's block of 32 8-bit integers and a scale.
pub const KFA_DTYPE_Q8_0: kfa_dtype = 40;
/// ggml's block of 32 4-bit indices into a fixed table and a scale.
pub const KFA_DTYPE_IQ4_NL: kfa_dtype = 52;

/// Which family of kernels may serve a call.
pub type kfa_attention_mode = i32;
/// Flash attention; standard MHA where flash cannot serve, with one logged reason.
pub const KFA_ATTENTION_MODE_AUTO: kfa_attention_mode = 0;
/// Flash attention only: `KFA_ERROR_UNSUPPORTED` instead of a fallback.
pub const KFA_ATTENTION_MODE_FLASH: kfa_attention_mode = 1;
/// Standard MHA only: two passes over stored scores.
pub const KFA_ATTENTION_MODE_STANDARD: kfa_attention_mode = 2;

/// What an attention mask holds.
pub type kfa_mask_kind = i32;
/// No mask.
pub const KFA_MASK_NONE: kfa_mask_kind = 0;
/// float32, fp16 or bf16 numbers added to the scores; -infinity hides the key.
pub const KFA_MASK_ADDITIVE: kfa_mask_kind = 1;
/// Bytes: non-zero where the key may be seen.
pub const KFA_MASK_BOOLEAN: kfa_mask_kind = 2;
/// Bits, a byte's least significant first: 1 where the key may be seen. Strides count bits.
pub const KFA_MASK_BITS: kfa_mask_kind = 3;

/// Which elements of a head RoPE turns together.
pub type kfa_rope_style = i32;
/// Element `i` and `i + rotary_dim / 2` (NeoX, Hugging Face).
pub const KFA_ROPE_NEOX: kfa_rope_style = 0;
/// Elements `2 i` and `2 i + 1` (GPT-J, ggml's normal).
pub const KFA_ROPE_INTERLEAVED: kfa_rope_style = 1;

/// Results are bit-identical whatever the number of threads. Without it they are from run to run, at
/// a fixed number of threads: decode on the CPU cuts contexts finer for more threads than key/value
/// heads.
pub const KFA_FLAG_DETERMINISTIC: u32 = 1;
/// A row's result does not depend on the batch it is in nor on how its sequence was chunked.
pub const KFA_FLAG_BATCH_INVARIANT: u32 = 2;
/// Permits arithmetic that is faster and less exact than float32. No kernel of this version has
/// such arithmetic, so the flag is refused with `KFA_ERROR_UNSUPPORTED`.
pub const KFA_FLAG_FAST_MATH: u32 = 4;
/// LSE is the base-2 logarithm of the sum of exponentials instead of the natural one.
pub const KFA_FLAG_LSE_BASE2: u32 = 8;

/// Severity of a log line.
pub type kfa_log_level = i32;
/// The library did something other than the caller may expect, such as a fallback.
pub const KFA_LOG_WARNING: kfa_log_level = 1;

/// Receives log lines (without a newline) from any thread that calls the library.
pub type kfa_log_callback = Option<
    unsafe extern "C-unwind" fn(level: kfa_log_level, message: *const c_char, user: *mut c_void),
>;
