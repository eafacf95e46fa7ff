//! Which keys a row sees: always one contiguous range.
//!
//! `kernels/common/visible.cuh` holds the same struct and formulas for the GPU, and
//! `kernels/common/visible_cases.inc` the cases that both sides are tested with.
#![allow(dead_code, reason = "kernels that serve more than plain causality read it")]

use super::Sequence;
use super::memory::Arrays;
use super::validator::{Validator, invalid};
use crate::error::{Refusal, Result};
use std::ops::Range;

/// Whether a row sees keys after its own; the numbers are those of `is_causal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Causal {
    /// It does.
    None = 0,
    /// It does not, and the newest row's own key is the newest.
    BottomRight = 1,
    /// It does not, and the first row's own key is the first.
    TopLeft = 2,
}

/// What hides keys from a row; kernels on a GPU get it by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Visible {
    pub causal: Causal,
    /// Newest keys that a row sees, its own included; 0 is all.
    pub window: i32,
    /// Keys after its own that a row sees where not causal; 0 is all.
    pub window_right: i32,
    /// A row sees only keys of its own chunk of so many; 0 is off.
    pub chunk: i32,
    /// Ends of the keys that rows see although causal, one per query row of the call; null is none.
    pub span_ends: *const i32,
}

/// What a tile of rows sees of a run of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Whether some row may see some key: false is certain.
    pub any: bool,
    /// Whether every row sees every key.
    pub all: bool,
}

impl Visible {
    /// The position of a row: the index of its own key.
    #[inline(always)]
    pub fn position(&self, s: &Sequence, row: usize) -> i64 {
        match self.causal {
            Causal::TopLeft => row as i64,
            _ => s.kv_end as i64 - s.q_len as i64 + row as i64,
        }
    }

    /// The keys that a row sees; an empty range lies within the sequence as well.
    ///
    /// # Safety
    /// The problem's arrays may be read, and the row is one of the sequence's.
    #[inline(always)]
    pub unsafe fn row(&self, s: &Sequence, row: usize) -> Range<usize> {
        let span_end = match self.span_ends {
            null if null.is_null() => 0,
            // SAFETY: the array has an entry for every row of the call.
            ends => unsafe { *ends.add(s.span_row + row) },
        };
        self.range(s, row, span_end.into())
    }

    /// [`Self::row`] for a row whose span ends there.
    #[inline(always)]
    fn range(&self, s: &Sequence, row: usize, span_end: i64) -> Range<usize> {
        let own = self.position(s, row);
        let (mut first, mut end) = (s.kv_first as i64, s.kv_end as i64);
        if self.causal != Causal::None {
            end = end.min(span_end.max(own + 1));
        } else if self.window_right > 0 {
            end = end.min(own + 1 + i64::from(self.window_right));
        }
        if self.window > 0 {
            first = first.max(own + 1 - i64::from(self.window));
        }
        if self.chunk > 0 {
            let chunk = i64::from(self.chunk);
            let chunk_first = own.div_euclid(chunk) * chunk;
            first = first.max(chunk_first);
            end = end.min(chunk_first + chunk);
        }
        first = first.min(s.kv_end as i64);
        first as usize..end.max(first) as usize
    }

    /// The keys between the first and the last that some of the rows see.
    ///
    /// # Safety
    /// As [`Self::row`].
    #[inline(always)]
    pub unsafe fn rows(&self, s: &Sequence, rows: Range<usize>) -> Range<usize> {
        // SAFETY: the caller's. First keys never fall from row to row, and without spans ends do not.
        unsafe {
            let first = self.row(s, rows.start).start;
            let mut end = self.row(s, rows.end - 1).end;
            if !self.span_ends.is_null() {
                end = rows.map(|row| self.row(s, row).end).fold(end, usize::max);
            }
            first..end.max(first)
        }
    }

    /// What a tile of rows sees of a run of keys, so that a kernel can pass by the run or leave out
    /// the mask.
    ///
    /// # Safety
    /// As [`Self::row`].
    #[inline(always)]
    pub unsafe fn tile(&self, s: &Sequence, rows: Range<usize>, keys: Range<usize>) -> Tile {
        // SAFETY: the caller's.
        unsafe {
            let seen = self.rows(s, rows.clone());
            let any = seen.start.max(keys.start) < seen.end.min(keys.end);
            let mut end = self.row(s, rows.start).end;
            if !self.span_ends.is_null() {
                end = rows.clone().map(|row| self.row(s, row).end).min().unwrap_or(end);
            }
            let last = self.row(s, rows.end - 1);
            Tile { any, all: keys.start >= last.start && keys.end <= end.min(s.kv_end) }
        }
    }
}

impl<E: Refusal> Validator<'_, E> {
    pub fn visible(&self, batch: usize, q_len: usize, arrays: &mut Arrays) -> Result<Visible, E> {
        let d = self.desc;
        let causal = match d.is_causal {
            0 => Causal::None,
            1 => Causal::BottomRight,
            2 => Causal::TopLeft,
            other => {
                return invalid(format_args!(
                    "is_causal is {other}; expected 0, 1 (bottom-right) or 2 (top-left)"
                ));
            }
        };
        for (name, value) in [
            ("sliding_window", d.sliding_window),
            ("window_right", d.window_right),
            ("attention_chunk", d.attention_chunk),
        ] {
            self.not_negative(value, name)?;
        }
        if causal != Causal::None && d.window_right != 0 {
            return invalid(format_args!(
                "window_right is {}; expected 0 where is_causal is {}",
                d.window_right, d.is_causal
            ));
        }
        if causal == Causal::None && !d.span_ends.is_null() {
            return invalid(format_args!(
                "span_ends is set; expected NULL where is_causal is 0, as rows see all keys already"
            ));
        }
        // At least: packed queries may have fewer rows.
        let rows = if d.query_offsets.is_null() { batch.checked_mul(q_len) } else { Some(1) };
        self.array(arrays, "span_ends", d.span_ends, 4, rows)?;
        Ok(Visible {
            causal,
            window: d.sliding_window,
            window_right: d.window_right,
            chunk: d.attention_chunk,
            span_ends: d.span_ends,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A case of `visible_cases.inc`.
    struct Case {
        visible: Visible,
        sequence: Sequence,
        rows: Vec<Range<usize>>,
    }

    /// Reads `KFA_VISIBLE_ROW(causal, window, right, chunk, span_end, q_len, kv_first, kv_end, row,
    /// first, end)` lines.
    fn cases() -> Vec<[i64; 11]> {
        let text = include_str!("../../kernels/common/visible_cases.inc");
        let inside = |line: &str| {
            let numbers = line.strip_prefix("KFA_VISIBLE_ROW(")?.strip_suffix(')')?;
            let numbers: Vec<i64> = numbers.split(',').map(|n| n.trim().parse().unwrap()).collect();
            Some(numbers.try_into().unwrap())
        };
        text.lines().filter_map(inside).collect()
    }

    fn causal(number: i64) -> Causal {
        [Causal::None, Causal::BottomRight, Causal::TopLeft][number as usize]
    }

    #[test]
    fn rows_see_what_the_table_of_cases_says() {
        let cases = cases();
        assert!(cases.len() > 40, "where are the cases?");
        for case in cases {
            let [c, window, right, chunk, span_end, q_len, kv_first, kv_end, row, first, end] =
                case;
            let visible = Visible {
                causal: causal(c),
                window: window as i32,
                window_right: right as i32,
                chunk: chunk as i32,
                span_ends: std::ptr::null(),
            };
            let s = Sequence::of(q_len as usize, kv_first as usize, kv_end as usize);
            let got = visible.range(&s, row as usize, span_end);
            let got = if got.is_empty() { 0..0 } else { got };
            assert_eq!(got, first as usize..end as usize, "{case:?}");
        }
    }

    /// Every combination of small numbers: a tile is what its rows are one by one.
    #[test]
    fn tiles_agree_with_their_rows() {
        let mut seen = [0; 3];
        for case in combinations() {
            let Case { visible, sequence: s, rows } = &case;
            for a in 0..rows.len() {
                for b in a + 1..=rows.len() {
                    for (c, d) in
                        (0..s.kv_end).flat_map(|c| (c + 1..=s.kv_end).map(move |d| (c, d)))
                    {
                        let meets = |r: &Range<usize>| r.start.max(c) < r.end.min(d);
                        let holds = |r: &Range<usize>| r.start <= c && d <= r.end;
                        // SAFETY: spans are null or have an entry per row.
                        let tile = unsafe { visible.tile(s, a..b, c..d) };
                        assert!(
                            tile.any || !rows[a..b].iter().any(meets),
                            "{visible:?} {s:?} {a}..{b} {c}..{d}"
                        );
                        assert_eq!(
                            tile.all,
                            rows[a..b].iter().all(holds),
                            "{visible:?} {s:?} {a}..{b} {c}..{d}"
                        );
                        // One row leaves nothing to guess.
                        assert!(b - a > 1 || tile.any == rows[a..b].iter().any(meets));
                        seen[usize::from(tile.any) + usize::from(tile.all)] += 1;
                    }
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 1000), "{seen:?}");
    }

    fn combinations() -> Vec<Case> {
        const SPANS: [i32; 4] = [0, 4, 4, 0];
        let mut cases = vec![];
        for (q_len, kv_end) in [(1, 6), (4, 6), (4, 4), (4, 2)] {
            for c in 0..3 {
                for (window, window_right) in [(0, 0), (1, 0), (2, 1), (3, 0), (0, 2)] {
                    for (chunk, kv_first, spans) in
                        [(0, 0, false), (3, 0, false), (0, 1, false), (0, 0, true), (3, 2, true)]
                    {
                        let visible = Visible {
                            causal: causal(c),
                            window,
                            window_right,
                            chunk,
                            span_ends: if spans { SPANS.as_ptr() } else { std::ptr::null() },
                        };
                        let sequence = Sequence::of(q_len, kv_first, kv_end);
                        // SAFETY: SPANS has an entry per row.
                        let row = |row| unsafe { visible.row(&sequence, row) };
                        let rows = (0..q_len).map(row).collect();
                        cases.push(Case { visible, sequence, rows });
                    }
                }
            }
        }
        cases
    }
}
