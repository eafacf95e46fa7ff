//! How long each sequence of a batch is, and where its rows and keys begin.
#![allow(dead_code, reason = "kernels that serve ragged batches read it")]

use super::memory::Arrays;
use super::validator::{Validator, invalid};
use super::{Check, Device, Spec};
use crate::error::{Refusal, Result};

/// Arrays of lengths and offsets, null where the description's own numbers hold for all sequences.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub query_offsets: *const i32,
    pub kv_offsets: *const i32,
    pub q_lens: *const i32,
    pub kv_lens: *const i32,
    pub kv_starts: *const i32,
    pub cache_index: *const i32,
    /// Rows of the packed query, and of packed keys; 0 where they are not packed.
    pub query_rows: usize,
    pub kv_rows: usize,
    /// Entries of the cache's batch axis; 1 where keys are packed.
    pub cache_batch: usize,
}

/// One sequence of a batch, its lengths resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The query's batch entry, and the row of it that holds row 0.
    pub query_batch: usize,
    pub query_row: usize,
    pub q_len: usize,
    /// The cache's batch entry, and the row of it that holds key 0; meaningless in a paged cache.
    pub cache_batch: usize,
    pub cache_row: usize,
    /// The valid keys: `kv_first..kv_end`.
    pub kv_first: usize,
    pub kv_end: usize,
    /// Row 0's place among all query rows of the call, as arrays per row count them.
    pub span_row: usize,
}

impl Sequence {
    /// A lone sequence of so many rows over keys `kv_first..kv_end`.
    pub const fn of(q_len: usize, kv_first: usize, kv_end: usize) -> Self {
        Self {
            query_batch: 0,
            query_row: 0,
            q_len,
            cache_batch: 0,
            cache_row: 0,
            kv_first,
            kv_end,
            span_row: 0,
        }
    }
}

impl Spec {
    /// The lengths of one sequence.
    ///
    /// # Safety
    /// The problem lies on the CPU, passed [`Check::All`], and its arrays are what they were then.
    pub unsafe fn sequence(&self, batch: usize) -> Sequence {
        let l = &self.lengths;
        // SAFETY: the caller's; each array has an entry for every sequence, offsets one more.
        unsafe {
            let at = |array: *const i32, index: usize| {
                (!array.is_null()).then(|| *array.add(index) as usize)
            };
            let query_row = at(l.query_offsets, batch);
            let cache_row = at(l.kv_offsets, batch);
            let packed = |offsets, row: Option<usize>| {
                row.and_then(|row| Some(at(offsets, batch + 1)? - row))
            };
            let q_len = at(l.q_lens, batch)
                .or_else(|| packed(l.query_offsets, query_row))
                .unwrap_or(self.q_len);
            let kv_end = at(l.kv_lens, batch)
                .or_else(|| packed(l.kv_offsets, cache_row))
                .unwrap_or(self.kv_len);
            Sequence {
                query_batch: if query_row.is_some() { 0 } else { batch },
                query_row: query_row.unwrap_or(0),
                q_len,
                cache_batch: match cache_row {
                    Some(_) => 0,
                    None => at(l.cache_index, batch).unwrap_or(batch),
                },
                cache_row: cache_row.unwrap_or(0),
                kv_first: at(l.kv_starts, batch).unwrap_or(0).min(kv_end),
                kv_end,
                span_row: query_row.unwrap_or(batch * self.q_len),
            }
        }
    }
}

impl<E: Refusal> Validator<'_, E> {
    /// Validates the arrays of lengths and notes them in `arrays`.
    ///
    /// # Safety
    /// On the CPU, where everything is checked, the arrays may be read.
    pub unsafe fn lengths(&self, sizes: [usize; 3], arrays: &mut Arrays) -> Result<Lengths, E> {
        let [batch, q_len, kv_len] = sizes;
        let d = self.desc;
        for (name, count) in
            [("query_rows", d.query_rows), ("kv_rows", d.kv_rows), ("cache_batch", d.cache_batch)]
        {
            self.not_negative(count, name)?;
        }
        for (name, array, count) in [
            ("query_offsets", d.query_offsets, batch + 1),
            ("kv_offsets", d.kv_offsets, batch + 1),
            ("q_lens", d.q_lens, batch),
            ("kv_lens", d.kv_lens, batch),
            ("kv_starts", d.kv_starts, batch),
            ("cache_index", d.cache_index, batch),
        ] {
            self.array(arrays, name, array, 4, Some(count))?;
        }
        for (rows, value, offsets, array) in [
            ("query_rows", d.query_rows, "query_offsets", d.query_offsets),
            ("kv_rows", d.kv_rows, "kv_offsets", d.kv_offsets),
            ("cache_batch", d.cache_batch, "cache_index", d.cache_index),
        ] {
            if value != 0 && array.is_null() {
                return invalid(format_args!("{rows} is {value} without {offsets}; expected 0"));
            }
        }
        if !d.cache_index.is_null() && d.cache_batch == 0 {
            return invalid(format_args!(
                "cache_batch is 0; expected the entries of the cache that cache_index picks from"
            ));
        }
        for (name, other) in
            [("kv_offsets", !d.kv_offsets.is_null()), ("page_size", d.page_size != 0)]
        {
            if other && !d.cache_index.is_null() {
                return invalid(format_args!(
                    "cache_index is set with {name}; expected one of them"
                ));
            }
        }
        if !d.kv_offsets.is_null() && d.page_size != 0 {
            return invalid(format_args!("kv_offsets is set with page_size; expected one of them"));
        }
        let bound = |rows: i32, offsets: *const i32, most: usize| {
            if offsets.is_null() {
                Some(0)
            } else if rows > 0 {
                Some(rows as usize)
            } else {
                batch.checked_mul(most)
            }
        };
        let mut lengths = Lengths {
            query_offsets: d.query_offsets,
            kv_offsets: d.kv_offsets,
            q_lens: d.q_lens,
            kv_lens: d.kv_lens,
            kv_starts: d.kv_starts,
            cache_index: d.cache_index,
            query_rows: 0,
            kv_rows: 0,
            cache_batch: if d.cache_batch > 0 { d.cache_batch as usize } else { batch },
        };
        let (Some(query_rows), Some(kv_rows)) =
            (bound(d.query_rows, d.query_offsets, q_len), bound(d.kv_rows, d.kv_offsets, kv_len))
        else {
            return invalid(format_args!("batch * q_len or batch * kv_len overflows"));
        };
        (lengths.query_rows, lengths.kv_rows) = (query_rows, kv_rows);
        if !d.kv_offsets.is_null() {
            lengths.cache_batch = 1;
        }
        if self.check == Check::All && self.device == Device::Cpu {
            // SAFETY: the caller's.
            unsafe { self.entries(sizes, &mut lengths)? };
        }
        Ok(lengths)
    }

    /// Checks every entry against its bound, and learns how many rows packed tensors have.
    unsafe fn entries(&self, sizes: [usize; 3], l: &mut Lengths) -> Result<(), E> {
        let [batch, q_len, kv_len] = sizes;
        // SAFETY: the caller vouches for the arrays.
        let at = |array: *const i32, index: usize| unsafe { *array.add(index) };
        for (name, offsets, bound, most, rows, rows_name) in [
            (
                "query_offsets",
                l.query_offsets,
                self.desc.query_rows,
                q_len,
                &mut l.query_rows,
                "query_rows",
            ),
            ("kv_offsets", l.kv_offsets, self.desc.kv_rows, kv_len, &mut l.kv_rows, "kv_rows"),
        ] {
            if offsets.is_null() {
                continue;
            }
            let mut last = 0;
            for i in 0..=batch {
                let offset = at(offsets, i);
                if i == 0 && offset < 0 || i > 0 && offset < last {
                    return invalid(format_args!(
                        "{name}[{i}] is {offset}; expected {last} or more, as offsets do not fall"
                    ));
                }
                if i > 0 && (offset - last) as usize > most {
                    return invalid(format_args!(
                        "{name}[{i}] - {name}[{}] is {}; expected at most {most}, as the bound on lengths says",
                        i - 1,
                        offset - last
                    ));
                }
                last = offset;
            }
            if bound > 0 && last > bound {
                return invalid(format_args!(
                    "{name}[{batch}] is {last}; expected at most {rows_name} ({bound})"
                ));
            }
            *rows = last as usize;
        }
        let own = |offsets: *const i32, b: usize, most: usize| {
            if offsets.is_null() { most } else { (at(offsets, b + 1) - at(offsets, b)) as usize }
        };
        let per_sequence = [l.q_lens, l.kv_lens, l.kv_starts, l.cache_index];
        // A batch of any size is quickly passed where no array tells of it.
        let checked = if per_sequence.iter().all(|array| array.is_null()) { 0 } else { batch };
        for b in 0..checked {
            for (name, array, most) in [
                ("q_lens", l.q_lens, own(l.query_offsets, b, q_len)),
                ("kv_lens", l.kv_lens, own(l.kv_offsets, b, kv_len)),
                ("kv_starts", l.kv_starts, own(l.kv_offsets, b, kv_len)),
                ("cache_index", l.cache_index, l.cache_batch - 1),
            ] {
                if array.is_null() {
                    continue;
                }
                let value = at(array, b);
                if value < 0 || value as usize > most {
                    return invalid(format_args!("{name}[{b}] is {value}; expected 0 to {most}"));
                }
            }
        }
        Ok(())
    }
}
