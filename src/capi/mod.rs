//! The C API: the only place with exported symbols. Raw C in, a status out, and no panic beyond.

pub mod attention;
pub mod kernels;
pub mod layer;
pub mod process;

use crate::abi::{KFA_ERROR_INTERNAL, KFA_OK, kfa_status};
use crate::error::{self, Error, Result};
use crate::log;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the body of an exported function; a failure leaves its message for this thread.
fn boundary(body: impl FnOnce() -> Result<()>) -> kfa_status {
    let (status, message) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => (KFA_OK, None),
        Ok(Err(error)) => (error.status as kfa_status, Some(error.message)),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown panic");
            (KFA_ERROR_INTERNAL, Some(format!("internal error, please report it: {text}")))
        }
    };
    log::deliver();
    // After the callback, whose own calls may have failed and left a message.
    if let Some(message) = message {
        error::set_last_message(&message);
    }
    status
}

/// Runs the body of an exported function that returns no status but an answer: `otherwise` where
/// the body panics.
fn answer<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    let found = recall(otherwise, body);
    log::deliver();
    found
}

/// As [`answer`], for what a call left behind: no callback runs, as its calls would change it.
fn recall<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
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
