//! Each thread's scratch memory, kept from call to call.

use crate::error::{Error, Result, Status};
use std::cell::Cell;

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends `body` this thread's scratch of `floats`, contents undefined, from a cache line's start. It
/// grows to the largest request and is kept.
pub fn lend<R>(floats: usize, body: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    /// Floats in a cache line.
    const LINE: usize = 16;
    // A thread that is ending has no place to keep any; it gets new memory each time.
    let mut memory = SCRATCH.try_with(Cell::take).unwrap_or_default();
    let wanted = floats.saturating_add(LINE);
    if memory.len() < wanted {
        memory = Vec::new();
        memory.try_reserve_exact(wanted).map_err(|_| Error {
            status: Status::OutOfMemory,
            message: format!("scratch of {floats} floats per thread could not be allocated"),
        })?;
        memory.resize(wanted, 0.0);
    }
    let skip = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let result = body(&mut memory[skip..skip + floats]);
    let _ = SCRATCH.try_with(|kept| kept.set(memory));
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_aligned_kept_and_never_too_short() {
        let mut first = std::ptr::null();
        for floats in [1, 1000, 17, 1000] {
            lend(floats, |scratch| {
                assert_eq!(scratch.len(), floats);
                assert!(scratch.as_ptr().addr().is_multiple_of(64));
                if floats == 17 {
                    first = scratch.as_ptr();
                } else if floats == 1000 && !first.is_null() {
                    assert_eq!(scratch.as_ptr(), first);
                }
            })
            .unwrap();
        }
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        for floats in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 4] {
            let error = lend(floats, |_| unreachable!("no one has that much")).unwrap_err();
            assert_eq!(error.status, Status::OutOfMemory);
            assert!(error.message.contains(&floats.to_string()));
        }
        lend(8, |scratch| assert_eq!(scratch.len(), 8)).unwrap();
    }

    /// A thread-local that outlives the scratch, and uses it as the thread ends.
    #[test]
    fn a_thread_that_ends_still_has_scratch() {
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                lend(100, |scratch| scratch.fill(1.0)).unwrap();
            }
        }
        thread_local!(static LATE: Late = const { Late });
        let thread = std::thread::spawn(|| {
            LATE.with(|_| ());
            lend(10, |_| ()).unwrap();
        });
        thread.join().unwrap();
    }
}
