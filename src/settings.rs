//! Process-wide switches: the attention mode, and what the environment lowers.

use crate::error::{Error, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// Which family of kernels may serve a call; the numbers are `KFA_ATTENTION_MODE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Mode {
    Auto = 0,
    Flash = 1,
    Standard = 2,
}

impl Mode {
    /// What messages call the numbers that [`Self::from_number`] takes.
    pub const EXPECTED: &str = "KFA_ATTENTION_MODE_AUTO (0), _FLASH (1) or _STANDARD (2)";

    /// Reads a mode of the C API.
    pub fn from_number(value: i32) -> Option<Self> {
        [Mode::Auto, Mode::Flash, Mode::Standard].into_iter().find(|mode| *mode as i32 == value)
    }

    /// As [`Self::from_number`]; `argument` names it in the error.
    pub fn from_c(value: i32, argument: &str) -> Result<Self> {
        Self::from_number(value).ok_or_else(|| {
            Error::invalid(format!("{argument} is {value}; expected {}", Self::EXPECTED))
        })
    }
}

static MODE: AtomicI32 = AtomicI32::new(Mode::Auto as i32);

/// The mode of calls that leave theirs at `Auto`.
pub fn set_mode(mode: Mode) {
    MODE.store(mode as i32, Ordering::Relaxed);
}

/// The mode a call runs under: its own, or the process's where its own is `Auto`.
pub fn effective_mode(requested: Mode) -> Mode {
    match requested {
        Mode::Auto => match MODE.load(Ordering::Relaxed) {
            1 => Mode::Flash,
            2 => Mode::Standard,
            _ => Mode::Auto,
        },
        explicit => explicit,
    }
}

/// Whether `KFA_DISABLE_FLASH_ATTENTION` is set to anything but empty or `0`; read once.
pub fn flash_disabled_by_environment() -> bool {
    static DISABLED: OnceLock<bool> = OnceLock::new();
    *DISABLED.get_or_init(|| {
        std::env::var_os("KFA_DISABLE_FLASH_ATTENTION").is_some_and(|v| !v.is_empty() && v != "0")
    })
}
