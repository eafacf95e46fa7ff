//! What concerns the whole process: version, errors, logging, mode and threads.

use super::{answer, boundary, recall};
use crate::abi::*;
use crate::cpu::{self, threads};
use crate::cuda;
use crate::error::{self, Error};
use crate::log;
use crate::settings::{self, Mode};
use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

/// Major version of the header: a change breaks the ABI.
pub const KFA_VERSION_MAJOR: u32 = 0;
/// Minor version of the header.
pub const KFA_VERSION_MINOR: u32 = 1;
/// Patch version of the header.
pub const KFA_VERSION_PATCH: u32 = 0;

/// Version of the library: `major * 1000000 + minor * 1000 + patch`.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_version() -> u32 {
    KFA_VERSION_MAJOR * 1_000_000 + KFA_VERSION_MINOR * 1_000 + KFA_VERSION_PATCH
}

/// Version of the library as text, such as `0.1.0`.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// One line that says what this build holds: version, target, backends and the instruction set
/// in use. Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_build_info() -> *const c_char {
    static INFO: OnceLock<CString> = OnceLock::new();
    answer(c"kuiper_flash_attention".as_ptr(), || {
        let info = INFO.get_or_init(|| {
            let text = format!(
                "kuiper_flash_attention {} for {} ({}); {}; {}",
                env!("CARGO_PKG_VERSION"),
                env!("KFA_BUILD_TARGET"),
                env!("KFA_BUILD_PROFILE"),
                cpu::summary(),
                cuda::summary(),
            );
            CString::new(text).unwrap_or_default()
        });
        info.as_ptr()
    })
}

/// Message of this thread's last failed call: which argument, its value, what was expected. Never
/// NULL; empty before the first failure; valid until the thread's next failure or its end. Where the
/// thread has already destroyed its variables (in a destructor or an `atexit` handler) messages are
/// not kept, and this says so.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_last_error_message() -> *const c_char {
    recall(c"".as_ptr(), error::last_message)
}

/// Name of a status, such as `KFA_ERROR_UNSUPPORTED`. Never NULL; valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_status_name(status: kfa_status) -> *const c_char {
    match status {
        KFA_OK => c"KFA_OK",
        KFA_ERROR_INVALID_ARGUMENT => c"KFA_ERROR_INVALID_ARGUMENT",
        KFA_ERROR_UNSUPPORTED => c"KFA_ERROR_UNSUPPORTED",
        KFA_ERROR_NO_DEVICE => c"KFA_ERROR_NO_DEVICE",
        KFA_ERROR_CUDA => c"KFA_ERROR_CUDA",
        KFA_ERROR_OUT_OF_MEMORY => c"KFA_ERROR_OUT_OF_MEMORY",
        KFA_ERROR_INTERNAL => c"KFA_ERROR_INTERNAL",
        _ => c"unknown kfa_status",
    }
    .as_ptr()
}

/// Sets where warnings go. NULL (the default) writes them to standard error; one that cannot be
/// written there is lost, and no call fails for it.
///
/// The callback runs at the end of a call into the library, on a thread that called it, and may call
/// the library itself, this function included. What such calls log comes with a later call.
///
/// When this function returns, no other thread is inside the callback before, and none will enter
/// it, so that `user` may be freed. It waits for that: hold no lock that the callback takes. Only
/// where a callback calls it does it return at once, and other threads may be inside for a little
/// longer.
///
/// A callback must return. It must not leave by `longjmp`; a C++ exception that leaves it ends the
/// process.
///
/// @param[in] callback  called from any thread that calls the library.
/// @param[in] user      handed back to the callback.
///
/// # Safety
/// The callback may be called, with `user`, from any thread until another one is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kfa_set_log_callback(callback: kfa_log_callback, user: *mut c_void) {
    answer((), || log::set_callback(callback, user));
}

/// Sets which kernels serve calls whose own mode is automatic; the default is
/// `KFA_ATTENTION_MODE_AUTO`. The environment variable `KFA_DISABLE_FLASH_ATTENTION=1` takes flash
/// away from every mode. `kfa_get_standard_mha_kernel()` is not affected.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_set_attention_mode(mode: kfa_attention_mode) -> kfa_status {
    boundary(|| {
        settings::set_mode(Mode::from_c(mode, "mode")?);
        Ok(())
    })
}

/// Sets how many threads a CPU call uses, the calling one included. The default is the number of
/// CPUs that the process may run on, lowered by the environment variable `KFA_NUM_THREADS`.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_set_num_threads(threads: i32) -> kfa_status {
    boundary(|| {
        const MOST: i32 = 1024;
        if !(1..=MOST).contains(&threads) {
            return Err(Error::invalid(format!("threads is {threads}; expected 1 to {MOST}")));
        }
        threads::set_count(threads as usize)
    })
}

/// Number of threads that a CPU call uses, the calling one included.
#[unsafe(no_mangle)]
pub extern "C" fn kfa_get_num_threads() -> i32 {
    answer(1, || threads::count() as i32)
}
