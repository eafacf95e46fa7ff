//! Where a head's keys or values lie: runs of rows, whatever the cache is made of.
//!
//! Kernels ask for the rows of some keys and get as many as lie a stride apart: all of them in a dense
//! cache, up to the end of a page in a paged one, and of a quantised one a few, as float32 in scratch.

use crate::cpu::dequantise::{self, Quantised};
use crate::cpu::mask::RowMask;
use crate::cpu::rows::CacheRows;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::problem::{Pages, Problem, Quant, Sequence, View};
use std::ops::Range;

/// Rows that are dequantised together.
const DEQUANTISED_ROWS: usize = 16;

/// Keys or values of one key/value head of a sequence.
pub struct HeadCache<'a> {
    view: View,
    quant: Option<&'a Quant>,
    /// The sequence's entries of the page table, and the tokens of a page.
    pages: Option<(*const i32, usize)>,
    /// The batch entry, and the row of it that holds key 0, of a cache without pages.
    batch: usize,
    first_row: usize,
    head: usize,
    dim: usize,
}

/// Rows of floating-point elements, a stride apart.
#[derive(Clone, Copy)]
pub struct Run {
    first: *const u8,
    pub dtype: Dtype,
    stride: usize,
    pub count: usize,
    dim: usize,
}

impl Run {
    /// The rows as elements of the type that `dtype` stands for.
    pub fn rows<E>(&self) -> CacheRows<E> {
        CacheRows {
            first: self.first.cast(),
            stride: self.stride,
            count: self.count,
            head_dim: self.dim,
        }
    }
}

impl<'a> HeadCache<'a> {
    /// # Safety
    /// The problem's arrays may be read; `s` is its sequence `batch`, `head` a key/value head.
    #[inline(always)]
    pub unsafe fn keys(p: &'a Problem, s: &Sequence, batch: usize, head: usize) -> Self {
        let table = p.pages.as_ref().map(|pages| pages.table);
        // SAFETY: the caller's.
        unsafe { Self::new(p, s, batch, head, (&p.key, p.key_quant.as_ref(), p.head_dim), table) }
    }

    /// # Safety
    /// As [`Self::keys`].
    #[inline(always)]
    pub unsafe fn values(p: &'a Problem, s: &Sequence, batch: usize, head: usize) -> Self {
        let table = p.pages.as_ref().map(|pages| pages.value_table);
        let tensor = (&p.value, p.value_quant.as_ref(), p.value_head_dim);
        // SAFETY: the caller's.
        unsafe { Self::new(p, s, batch, head, tensor, table) }
    }

    #[inline(always)]
    unsafe fn new(
        p: &'a Problem,
        s: &Sequence,
        batch: usize,
        head: usize,
        (view, quant, dim): (&View, Option<&'a Quant>, usize),
        table: Option<*const i32>,
    ) -> Self {
        let pages = p.pages.as_ref().zip(table).map(|(pages, table)| {
            // SAFETY: the caller's.
            let first = unsafe { first_entry(pages, batch) };
            (table.wrapping_add(first), pages.size)
        });
        Self { view: *view, quant, pages, batch: s.cache_batch, first_row: s.cache_row, head, dim }
    }

    /// Elements of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The rows of the first of `keys`, as many as lie a stride apart.
    ///
    /// # Safety
    /// Some row of the problem sees each of the keys; of a quantised cache, `scratch` holds
    /// [`scratch_floats`].
    #[inline(always)]
    pub unsafe fn run(&self, keys: Range<usize>, scratch: *mut f32) -> Run {
        let (batch, row, count) = match self.pages {
            None => (self.batch, self.first_row + keys.start, keys.len()),
            Some((table, size)) => {
                let row = keys.start % size;
                // SAFETY: the page of a key that is seen has an entry, which is that of a page.
                let page = unsafe { *table.add(keys.start / size) };
                (page as usize, row, keys.len().min(size - row))
            }
        };
        let View { dtype, batch_stride, row_stride, head_stride, .. } = self.view;
        let offset = batch * batch_stride + row * row_stride + self.head * head_stride;
        let first = self.view.data.cast_const().wrapping_add(self.view.bytes(offset));
        if dtype.is_float() {
            return Run { first, dtype, stride: row_stride, count, dim: self.dim };
        }
        let count = count.min(DEQUANTISED_ROWS);
        for i in 0..count {
            let stored = Quantised {
                dtype,
                data: first.wrapping_add(i * self.view.bytes(row_stride)),
                quant: self.quant,
                place: [batch, row + i, self.head],
            };
            // SAFETY: the caller's; a row holds `dim` elements.
            unsafe { dequantise::row(&stored, self.dim, scratch.add(i * self.dim)) };
        }
        Run { first: scratch.cast(), dtype: Dtype::Fp32, stride: self.dim, count, dim: self.dim }
    }
}

/// Floats of the scratch that [`HeadCache::run`] needs.
pub fn scratch_floats(p: &Problem) -> usize {
    if p.key.dtype.is_float() && p.value.dtype.is_float() {
        return 0;
    }
    DEQUANTISED_ROWS * p.head_dim.max(p.value_head_dim)
}

/// # Safety
/// `offsets` may be read, if there are any.
unsafe fn first_entry(pages: &Pages, batch: usize) -> usize {
    match pages.offsets {
        none if none.is_null() => batch * pages.stride,
        // SAFETY: the caller's; there is an offset for every sequence.
        offsets => unsafe { *offsets.add(batch) as usize },
    }
}

/// Refuses page tables that lead out of the cache. Entries of pages that no row sees may be anything.
///
/// # Safety
/// The problem lies on the CPU, and its arrays may be read.
pub unsafe fn check(p: &Problem) -> Result<()> {
    let Some(pages) = &p.pages else { return Ok(()) };
    for batch in 0..p.batch {
        // SAFETY: the caller's, throughout.
        unsafe {
            let entries = entries(p, pages, batch)?;
            let s = p.sequence(batch);
            if s.q_len == 0 {
                continue;
            }
            let seen = p.visible.rows(&s, 0..s.q_len);
            if seen.is_empty() {
                continue;
            }
            for page in seen.start / pages.size..seen.end.div_ceil(pages.size) {
                let keys = page * pages.size..(page + 1) * pages.size;
                let entry = entries.start + page;
                if entry >= entries.end {
                    if is_seen(p, &s, batch, keys) {
                        return Err(Error::invalid(format!(
                            "page_offsets[{}] - page_offsets[{batch}] is {}; expected more than {page}, as sequence {batch} has a key on that page",
                            batch + 1,
                            entries.len()
                        )));
                    }
                    continue;
                }
                for (name, table) in
                    [("page_table", pages.table), ("value_page_table", pages.value_table)]
                {
                    let value = *table.add(entry);
                    let inside = value >= 0 && (value as usize) < pages.count;
                    if !inside && is_seen(p, &s, batch, keys.clone()) {
                        return Err(Error::invalid(format!(
                            "{name}[{entry}] is {value}; expected 0 to {}, as pages is {}",
                            pages.count - 1,
                            pages.count
                        )));
                    }
                    if pages.table == pages.value_table {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// A sequence's entries of the page table.
unsafe fn entries(p: &Problem, pages: &Pages, batch: usize) -> Result<Range<usize>> {
    if pages.offsets.is_null() {
        let first = batch * pages.stride;
        return Ok(first..first + p.kv_len.div_ceil(pages.size));
    }
    // SAFETY: there is an offset for every sequence, and one more.
    let [first, end] = unsafe { [*pages.offsets.add(batch), *pages.offsets.add(batch + 1)] };
    if first < 0 || end < first || end as usize > pages.stride {
        return Err(Error::invalid(format!(
            "page_offsets[{batch}] to page_offsets[{}] are {first} to {end}; expected offsets that do not fall, from 0 to at most page_table_stride ({})",
            batch + 1,
            pages.stride
        )));
    }
    Ok(first as usize..end as usize)
}

/// Whether some row sees one of the keys.
unsafe fn is_seen(p: &Problem, s: &Sequence, batch: usize, keys: Range<usize>) -> bool {
    (0..s.q_len).any(|row| {
        // SAFETY: the caller's.
        let seen = unsafe { p.visible.row(s, row) };
        let keys = seen.start.max(keys.start)..seen.end.min(keys.end);
        // SAFETY: as above.
        !keys.is_empty()
            && (0..p.heads).any(|head| unsafe {
                RowMask::of(p, s, batch, head, row).is_none_or(|mask| mask.shows(keys.clone()))
            })
    })
}
