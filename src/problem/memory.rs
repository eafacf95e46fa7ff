//! Addresses: alignment, spans, arrays.

use super::validator::{Validator, invalid};
use crate::error::{Error, Refusal, Result};
use std::fmt;

/// The bytes from a view's first element to its last.
#[derive(Clone, Copy)]
pub struct Span {
    start: usize,
    end: usize,
}

impl Span {
    pub const NONE: Span = Span { start: 0, end: 0 };

    pub fn new(data: *const u8, bytes: usize) -> Self {
        let start = data.addr();
        // A null pointer stands for an absent tensor, which meets nothing.
        Self { start, end: if start == 0 { 0 } else { start.saturating_add(bytes) } }
    }

    pub fn meets(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Refuses an address that its elements cannot have.
pub fn aligned(data: *const u8, alignment: usize, name: impl fmt::Display) -> Result<()> {
    refuse_misaligned::<Error>(data, alignment, name)
}

fn refuse_misaligned<E: Refusal>(
    data: *const u8,
    alignment: usize,
    name: impl fmt::Display,
) -> Result<(), E> {
    if data.addr().is_multiple_of(alignment) {
        return Ok(());
    }
    invalid(format_args!(
        "{name} is {data:p}; expected an address aligned to its {alignment}-byte elements"
    ))
}

/// Elements from the first to the last of an array with these strides and sizes; `None` if that
/// overflows.
pub fn extent(axes: &[(usize, usize)]) -> Option<usize> {
    axes.iter().try_fold(1usize, |last, (stride, size)| {
        last.checked_add(stride.checked_mul(size.saturating_sub(1))?)
    })
}

/// Arrays that a call reads beside its tensors, by the names of their fields.
pub struct Arrays {
    list: [(&'static str, Span); 32],
    count: usize,
}

impl Arrays {
    pub fn new() -> Self {
        Self { list: [("", Span::NONE); 32], count: 0 }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Span)> {
        self.list.into_iter().take(self.count)
    }
}

impl<E: Refusal> Validator<'_, E> {
    pub fn aligned(
        &self,
        data: *const u8,
        alignment: usize,
        name: impl fmt::Display,
    ) -> Result<(), E> {
        refuse_misaligned(data, alignment, name)
    }

    /// Notes an array that the call reads: null, or so many elements of so many bytes.
    pub fn array<T>(
        &self,
        arrays: &mut Arrays,
        name: &'static str,
        data: *const T,
        size: usize,
        count: Option<usize>,
    ) -> Result<(), E> {
        if data.is_null() {
            return Ok(());
        }
        let bytes = count.and_then(|count| count.checked_mul(size));
        let fits = bytes.filter(|bytes| *bytes <= isize::MAX as usize);
        let Some(bytes) = fits.filter(|bytes| data.addr().checked_add(*bytes).is_some()) else {
            return invalid(format_args!("{name} overflows the address space"));
        };
        if self.all() {
            self.aligned(data.cast(), size, name)?;
        }
        if let Some(entry) = arrays.list.get_mut(arrays.count) {
            *entry = (name, Span::new(data.cast(), bytes));
            arrays.count += 1;
        }
        Ok(())
    }
}
