//! Memory between guard pages: whoever steps beside it dies on the spot.

use std::ops::Range;
use std::ptr::{null_mut, slice_from_raw_parts};

const PAGE: usize = 4096;

/// Which end of the memory lies against its guard page, without a byte between.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    Start,
    End,
}

/// A run of address space of which only a part may be touched.
pub struct Guarded {
    map: *mut libc::c_void,
    mapped: usize,
    /// Where byte 0 of the run is.
    origin: *mut u8,
    used: Range<usize>,
    /// The pages that hold the used bytes.
    pages: Range<usize>,
}

impl Guarded {
    /// `used` are the bytes that may be touched; byte 0 and all between are only addresses. What is
    /// touchable is filled with 0xff: NaN in every float type.
    /// The run has `span` bytes at least, and nothing else lies there.
    pub fn new(used: Range<usize>, span: usize, flush: Flush) -> Self {
        let mapped = used.end.max(span).next_multiple_of(PAGE) + 4 * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping of our own.
        let map = unsafe { libc::mmap(null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        assert!(map != libc::MAP_FAILED, "mmap of {mapped} bytes");
        let edge = if flush == Flush::End { used.end } else { used.start };
        let shift = PAGE - edge % PAGE;
        let origin = map.cast::<u8>().wrapping_add(PAGE + shift);
        let offset = PAGE + shift;
        let pages = (offset + used.start) / PAGE * PAGE..(offset + used.end).next_multiple_of(PAGE);
        let guarded = Self { map, mapped, origin, used, pages };
        guarded.protect(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: these pages are ours and writable.
        unsafe { guarded.first_page().write_bytes(0xff, guarded.pages.len()) };
        guarded
    }

    fn first_page(&self) -> *mut u8 {
        self.map.cast::<u8>().wrapping_add(self.pages.start)
    }

    fn protect(&self, protection: libc::c_int) {
        if !self.pages.is_empty() {
            // SAFETY: pages of our own mapping.
            let result =
                unsafe { libc::mprotect(self.first_page().cast(), self.pages.len(), protection) };
            assert_eq!(result, 0, "mprotect");
        }
    }

    /// From here on a write kills.
    pub fn make_read_only(&self) {
        self.protect(libc::PROT_READ);
    }

    /// The address of byte 0, which may itself not be touchable.
    pub fn origin(&self) -> *mut u8 {
        self.origin
    }

    /// Writes bytes at an offset inside the used part.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(self.used.start <= at && at + bytes.len() <= self.used.end);
        // SAFETY: inside the used part, which is writable until it is made read-only.
        unsafe { self.origin.wrapping_add(at).copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// All touchable bytes, those on the same pages beside the used part included.
    pub fn touchable(&self) -> Vec<u8> {
        // SAFETY: readable pages of our own that no call is using now.
        unsafe { (*slice_from_raw_parts(self.first_page(), self.pages.len())).to_vec() }
    }

    /// Where a byte of the run is among the touchable ones.
    pub fn place(&self, at: usize) -> usize {
        self.origin.addr() + at - self.first_page().addr()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing refers to it any more.
        unsafe { libc::munmap(self.map, self.mapped) };
    }
}
