//! Errors are values: a status for the C caller and a message that names the argument.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::fmt;

/// What kind of failure a call met; the numbers are the `KFA_ERROR_*` codes of the C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    InvalidArgument = 1,
    Unsupported = 2,
    NoDevice = 3,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    Cuda = 4,
    OutOfMemory = 5,
}

/// A failed call: its status and the sentence that tells the caller what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub status: Status,
    pub message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: Status::InvalidArgument, message: message.into() }
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self { status: Status::Unsupported, message: message.into() }
    }
}

/// What a failed check leaves: a whole [`Error`] or, for who asks only whether, its bare [`Status`],
/// for which no message is put into words.
pub trait Refusal: Sized {
    fn refuse(status: Status, message: fmt::Arguments) -> Self;
}

impl Refusal for Error {
    fn refuse(status: Status, message: fmt::Arguments) -> Self {
        Self { status, message: message.to_string() }
    }
}

impl Refusal for Status {
    fn refuse(status: Status, _: fmt::Arguments) -> Self {
        status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

thread_local! {
    static LAST_MESSAGE: RefCell<CString> = RefCell::default();
    /// Without a destructor: there for as long as the thread runs.
    static LAST_KERNEL: Cell<&'static CStr> = const { Cell::new(c"") };
}

/// Keeps the message of this thread's last failed call for `kfa_last_error_message`.
pub fn set_last_message(message: &str) {
    let text = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // A thread whose variables are destroyed already keeps none; the status says enough.
    let _ = LAST_MESSAGE.try_with(|last| *last.borrow_mut() = text);
}

/// The message of this thread's last failed call; valid until the next failure on the thread.
pub fn last_message() -> *const std::ffi::c_char {
    LAST_MESSAGE
        .try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"no message: it was destroyed with the ending thread's variables".as_ptr())
}

/// Remembers which kernel served this thread's last successful call.
pub fn set_last_kernel(name: &'static CStr) {
    LAST_KERNEL.set(name);
}

/// The kernel that served this thread's last successful call, empty before the first.
pub fn last_kernel() -> &'static CStr {
    LAST_KERNEL.get()
}
