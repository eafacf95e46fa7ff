//! C structs that grow at their end: a caller's may be shorter or longer than ours.
//!
//! What a shorter one lacks has its default; a longer one is served as long as it asks for nothing
//! that we do not know, which is to say that every byte beyond ours is 0.

use crate::error::{Refusal, Status};
use std::fmt::Display;
use std::mem::MaybeUninit;

/// No struct of ours will ever be longer: bounds what is read of a size that is garbage.
const MOST: usize = 16 << 10;

/// Reads a caller's struct, whose first field is its size, as ours. `first` is the size of its first
/// release, `default` what each field is where the caller's struct ends before it.
///
/// # Safety
/// `pointer` is null, or points to a `u32` and, where that is a size that is accepted here, to so
/// many bytes. `T` is a C struct in which any bytes are valid values.
pub unsafe fn read<T: Copy, E: Refusal>(
    pointer: *const T,
    default: &T,
    first: usize,
    name: impl Display,
) -> Result<T, E> {
    let invalid = |message: std::fmt::Arguments| E::refuse(Status::InvalidArgument, message);
    if pointer.is_null() {
        return Err(invalid(format_args!("{name} is NULL; expected a pointer to a struct")));
    }
    if !pointer.is_aligned() {
        return Err(invalid(format_args!("{name} is {pointer:p}; expected an aligned struct")));
    }
    let ours = size_of::<T>();
    // SAFETY: the caller's.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if size < first || size > MOST || !size.is_multiple_of(align_of::<T>()) {
        return Err(invalid(format_args!(
            "{name}.struct_size is {size}; expected sizeof of a released header's struct: {first} at least, {ours} in this version"
        )));
    }
    let mut copy = MaybeUninit::new(*default);
    // SAFETY: the caller vouches for `size` bytes, of which no more than ours are copied.
    let copy = unsafe {
        let bytes = copy.as_mut_ptr().cast::<u8>();
        bytes.copy_from_nonoverlapping(pointer.cast(), size.min(ours));
        copy.assume_init()
    };
    if size > ours {
        // SAFETY: as above.
        let beyond =
            unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(ours), size - ours) };
        if beyond.iter().any(|byte| *byte != 0) {
            return Err(E::refuse(
                Status::Unsupported,
                format_args!(
                    "{name}.struct_size is {size} and what lies beyond byte {ours}, where this version's struct ends, is not all 0: it asks for a feature of a newer version"
                ),
            ));
        }
    }
    Ok(copy)
}

/// Writes our defaults into a caller's struct of `size` bytes, and 0 beyond ours. Its first field
/// becomes `size`.
///
/// # Safety
/// `pointer` is null or may be written for `size` bytes.
pub unsafe fn write<T: Copy, E: Refusal>(
    pointer: *mut T,
    default: &T,
    size: usize,
    first: usize,
    name: &str,
) -> Result<(), E> {
    let invalid = |message: std::fmt::Arguments| E::refuse(Status::InvalidArgument, message);
    if pointer.is_null() {
        return Err(invalid(format_args!("{name} is NULL; expected a struct to fill")));
    }
    if size < first || size > MOST || !size.is_multiple_of(align_of::<T>()) {
        return Err(invalid(format_args!("size is {size}; expected sizeof of {name}'s struct")));
    }
    let copied = size.min(size_of::<T>());
    // SAFETY: the caller's; `size` is at least the first release's, which has its size up front.
    unsafe {
        let bytes = pointer.cast::<u8>();
        bytes.copy_from_nonoverlapping((&raw const *default).cast(), copied);
        bytes.add(copied).write_bytes(0, size - copied);
        pointer.cast::<u32>().write(size as u32);
    }
    Ok(())
}
