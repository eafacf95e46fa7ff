//! The floating-point control state: kernels round to nearest and keep denormals, whatever the
//! calling thread or the thread that a helper was started from had set, so that every thread of a
//! call computes the same.

/// Gives the thread the architecture's default state until dropped.
pub struct DefaultFloatState {
    /// What the thread had, if that differs.
    before: Option<State>,
}

impl DefaultFloatState {
    pub fn enter() -> Self {
        let state = read();
        let differs = state & CONTROL != DEFAULT;
        if differs {
            write(DEFAULT);
        }
        Self { before: differs.then_some(state) }
    }
}

impl Drop for DefaultFloatState {
    fn drop(&mut self) {
        if let Some(state) = self.before {
            write(state);
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod register {
    use std::arch::asm;

    pub type State = u32;
    /// All exceptions masked, rounding to nearest, denormals kept.
    pub const DEFAULT: State = 0x1f80;
    /// Everything but the flags of past exceptions.
    pub const CONTROL: State = !0x3f;

    pub fn read() -> State {
        let mut state = 0;
        // SAFETY: stores the register into the variable.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut state, options(nostack, preserves_flags));
        }
        state
    }

    pub fn write(state: State) {
        // SAFETY: loads a state that the register had, or its default.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const state, options(nostack, preserves_flags));
        }
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod register {
    use std::arch::asm;

    pub type State = u64;
    /// No traps, rounding to nearest, denormals kept.
    pub const DEFAULT: State = 0;
    pub const CONTROL: State = !0;

    pub fn read() -> State {
        let state;
        // SAFETY: reads the control register; the flags of past exceptions are in another.
        unsafe { asm!("mrs {}, fpcr", out(reg) state, options(nostack, preserves_flags)) };
        state
    }

    pub fn write(state: State) {
        // SAFETY: writes a state that the register had, or its default.
        unsafe { asm!("msr fpcr, {}", in(reg) state, options(nostack, preserves_flags)) };
    }
}

/// Where nothing is known of such a state.
#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
mod register {
    pub type State = u32;
    pub const DEFAULT: State = 0;
    pub const CONTROL: State = 0;

    pub fn read() -> State {
        DEFAULT
    }
    pub fn write(_: State) {}
}

use register::{CONTROL, DEFAULT, State, read, write};

/// Flushes denormals, inputs and results, to zero on this thread while the closure runs.
#[cfg(test)]
pub fn flushing_denormals<R>(body: impl FnOnce() -> R) -> R {
    let before = read();
    let flush = if cfg!(target_arch = "x86_64") { 1 << 15 | 1 << 6 } else { 1 << 24 };
    write(before | flush);
    let result = body();
    assert_eq!(read() & CONTROL, (before | flush) & CONTROL, "the state was not restored");
    write(before);
    result
}
