//! Where warnings go: the caller's callback, or standard error.

use crate::abi::{KFA_LOG_WARNING, kfa_log_callback, kfa_log_level};
use std::ffi::{CString, c_void};
use std::sync::RwLock;

struct Sink {
    callback: kfa_log_callback,
    user: *mut c_void,
}

// SAFETY: `user` is only handed back to the callback, which the API requires to be thread-safe.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Sink> = RwLock::new(Sink { callback: None, user: std::ptr::null_mut() });

/// Sends log lines to `callback`, or to standard error when it is null.
pub fn set_callback(callback: kfa_log_callback, user: *mut c_void) {
    *SINK.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Sink { callback, user };
}

/// Logs something that the caller should know although the call went on.
pub fn warning(message: &str) {
    line(KFA_LOG_WARNING, message);
}

fn line(level: kfa_log_level, message: &str) {
    // The lock is released before the callback runs, so that a callback may set another one.
    let (callback, user) = {
        let sink = SINK.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        (sink.callback, sink.user)
    };
    match callback {
        None => eprintln!("kuiper_flash_attention: {message}"),
        Some(callback) => {
            let text = CString::new(message.replace('\0', " ")).unwrap_or_default();
            // SAFETY: the caller registered this function for exactly these arguments.
            unsafe { callback(level, text.as_ptr(), user) }
        }
    }
}
