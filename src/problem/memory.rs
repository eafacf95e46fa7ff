//! Addresses: alignment, spans, and what may not overlap.

use super::validate::{Validator, invalid};
use super::view::Placed;
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

    fn iter(&self) -> impl Iterator<Item = (&'static str, Span)> {
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

    /// Refuses results that overlap what is read or each other. `inputs` are the tensors, of which
    /// the first is the query; the next two, the cache, are written where something is appended.
    pub fn overlaps(
        &self,
        output: &Placed,
        inputs: &[Placed],
        appending: bool,
        arrays: &Arrays,
        lse: Span,
        workspace: Span,
    ) -> Result<(), E> {
        let apart = |a: &str, b: &str, overlap: bool| {
            if !overlap {
                return Ok(());
            }
            invalid(format_args!("{a} overlaps {b}; expected separate memory"))
        };
        let results = [("lse", lse), (self.names.workspace, workspace)];
        for (i, input) in inputs.iter().enumerate() {
            let in_place = i == 0 && input.is_exactly(output);
            if !in_place && output.span.meets(input.span) && !output.interleaves(input) {
                return invalid(format_args!(
                    "{} overlaps {}; expected separate memory, or exactly the query view",
                    output.name, input.name
                ));
            }
            for (name, span) in results {
                apart(name, input.name, span.meets(input.span))?;
            }
            if appending && (i == 0 || i > 2) {
                for cache in &inputs[1..3] {
                    let overlap = cache.span.meets(input.span) && !cache.interleaves(input);
                    apart(cache.name, input.name, overlap)?;
                }
            }
        }
        for (name, span) in results {
            apart(name, output.name, span.meets(output.span))?;
        }
        apart(self.names.workspace, "lse", workspace.meets(lse))?;
        let written = [(output.name, output.span), results[0], results[1]];
        let cache = inputs[1..3].iter().map(|cache| (cache.name, cache.span));
        for (name, span) in written.into_iter().chain(cache.filter(|_| appending)) {
            for (array, read) in arrays.iter() {
                apart(name, array, span.meets(read))?;
            }
        }
        Ok(())
    }
}
