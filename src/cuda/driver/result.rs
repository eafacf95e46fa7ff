//! The driver's results as ours.

use crate::error::{Error, Result, Status};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, c_char};
use std::ptr::null;

/// `CUDA_ERROR_… (text)` of a result.
fn describe(result: CUresult) -> String {
    let text = |query: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = null();
        // SAFETY: the driver writes a pointer to a static string, or leaves ours.
        unsafe {
            match query(result, &mut text) {
                CUresult::CUDA_SUCCESS if !text.is_null() => {
                    CStr::from_ptr(text).to_string_lossy().into_owned()
                }
                _ => format!("error {}", result as u32),
            }
        }
    };
    format!("{} ({})", text(sys::cuGetErrorName), text(sys::cuGetErrorString))
}

/// Turns a driver's result into ours; `what` names the call.
pub(super) fn check(result: CUresult, what: &str) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(Error {
            status: Status::OutOfMemory,
            message: format!("{what}: {}", describe(result)),
        }),
        _ => Err(Error { status: Status::Cuda, message: format!("{what}: {}", describe(result)) }),
    }
}
