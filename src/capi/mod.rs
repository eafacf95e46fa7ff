//! The C API: the only place with exported symbols. Raw C in, a status out, and no panic beyond.

pub mod attention;
pub mod kernels;
pub mod layer;
pub mod process;

use crate::abi::{KFA_ERROR_INTERNAL, KFA_OK, kfa_status};
use crate::error::{self, Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the body of an exported function; a failure leaves its message for this thread.
fn boundary(body: impl FnOnce() -> Result<()>) -> kfa_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => KFA_OK,
        Ok(Err(error)) => {
            error::set_last_message(&error.message);
            error.status as kfa_status
        }
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown panic");
            error::set_last_message(&format!("internal error, please report it: {text}"));
            KFA_ERROR_INTERNAL
        }
    }
}

/// Reads a struct behind a pointer argument.
///
/// # Safety
/// `pointer` is null or points to a valid `T`.
unsafe fn read<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: the caller's.
    let value = unsafe { pointer.as_ref() };
    value.ok_or_else(|| Error::invalid(format!("{name} is NULL; expected a pointer to a struct")))
}

/// Writes a result behind a pointer argument.
///
/// # Safety
/// `pointer` is null or may be written.
unsafe fn write<T>(pointer: *mut T, name: &str, value: T) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL; expected where to write the result")));
    }
    // SAFETY: the caller's.
    unsafe { pointer.write(value) };
    Ok(())
}
