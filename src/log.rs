//! Where warnings go: the caller's callback, or standard error.
//!
//! A warning is found deep inside a call, often while something is found out once for the process.
//! It waits until the exported function is about to return, so that a callback runs outside every
//! lock and initialisation and may itself call the library.

use crate::abi::{KFA_LOG_WARNING, kfa_log_callback, kfa_log_level};
use arc_swap::ArcSwapOption;
use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use std::{process, thread};

struct Sink {
    callback: unsafe extern "C-unwind" fn(kfa_log_level, *const c_char, *mut c_void),
    user: *mut c_void,
    process: u32,
}

// SAFETY: `user` is only handed back to the callback, which the API requires to be thread-safe.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

/// The callback; standard error where there is none. Whoever calls it holds a reference meanwhile.
static SINK: ArcSwapOption<Sink> = ArcSwapOption::const_empty();

/// Warnings that were found and not yet delivered. Without a lock, which a child forked in the
/// wrong moment would inherit.
static PENDING: ArcSwapOption<Vec<String>> = ArcSwapOption::const_empty();

thread_local! {
    /// Whether this thread is inside its callback. Without a destructor, so that it can be asked
    /// for as long as the thread runs.
    static DELIVERING: Cell<bool> = const { Cell::new(false) };
}

/// Sends log lines to `callback`, or to standard error when it is null. Returns when no other
/// thread is inside the callback before; inside a callback it does not wait, as two threads would
/// wait for each other.
pub fn set_callback(callback: kfa_log_callback, user: *mut c_void) {
    let sink = callback.map(|callback| Arc::new(Sink { callback, user, process: process::id() }));
    let Some(mut before) = SINK.swap(sink) else { return };
    // A forked child has lost the threads that were inside its parent's callback.
    let may_wait = !DELIVERING.get() && before.process == process::id();
    while may_wait && Arc::get_mut(&mut before).is_none() {
        thread::sleep(Duration::from_micros(100));
    }
}

/// Logs something that the caller should know although the call went on.
pub fn warning(message: &str) {
    PENDING.rcu(|pending| {
        let before = pending.iter().flat_map(|messages| messages.iter());
        Some(Arc::new(before.cloned().chain([message.to_owned()]).collect()))
    });
}

/// Hands over what is pending; for the end of an exported function, where nothing is held. What a
/// callback's own calls log waits for the next call.
pub fn deliver() {
    if PENDING.load().is_none() || DELIVERING.replace(true) {
        return;
    }
    for message in PENDING.swap(None).iter().flat_map(|messages| messages.iter()) {
        line(KFA_LOG_WARNING, message);
    }
    DELIVERING.set(false);
}

fn line(level: kfa_log_level, message: &str) {
    match SINK.load_full() {
        // A standard error that cannot be written is no failure of the call.
        None => {
            let line = format!("kuiper_flash_attention: {message}\n");
            let _ = io::stderr().write_all(line.as_bytes());
        }
        Some(sink) => {
            let text = CString::new(message.replace('\0', " ")).unwrap_or_default();
            // SAFETY: the caller registered this function for exactly these arguments.
            unsafe { (sink.callback)(level, text.as_ptr(), sink.user) }
        }
    }
}
