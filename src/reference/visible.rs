//! Which keys a row sees: one contiguous range.

use super::Attention;
use std::ops::Range;

/// Whether a row sees keys after its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Causal {
    /// It does.
    None,
    /// It does not, and the newest row's own key is the newest.
    #[default]
    BottomRight,
    /// It does not, and the first row's own key is the first.
    TopLeft,
}

/// One sequence of the batch, its lengths resolved.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub batch: usize,
    pub q_len: usize,
    pub kv_len: usize,
    /// The first valid key.
    pub kv_start: usize,
    /// The query's and the cache's batch entry, and the row of it that holds row 0 and key 0.
    pub query_batch: usize,
    pub first_query: usize,
    pub cache_batch: usize,
    pub first_key: usize,
    causal: Causal,
}

impl Sequence {
    /// Absolute position of a row: the index of its own key.
    pub fn position(&self, row: usize) -> i64 {
        match self.causal {
            Causal::TopLeft => row as i64,
            _ => self.kv_len as i64 - self.q_len as i64 + row as i64,
        }
    }
}

impl Attention<'_> {
    /// Where a sequence lies and how long it is.
    pub fn sequence(&self, batch: usize) -> Sequence {
        let of = |array: Option<&[i32]>| array.map(|array| array[batch] as usize);
        let packed = |offsets: Option<&[i32]>| {
            offsets.map(|offsets| [offsets[batch] as usize, offsets[batch + 1] as usize])
        };
        let query = packed(self.query_offsets);
        let keys = packed(self.kv_offsets);
        Sequence {
            batch,
            q_len: of(self.q_lens).or(query.map(|[a, b]| b - a)).unwrap_or(self.q_len),
            kv_len: of(self.kv_lens).or(keys.map(|[a, b]| b - a)).unwrap_or(self.kv_len),
            kv_start: of(self.kv_starts).unwrap_or(0),
            query_batch: if query.is_some() { 0 } else { batch },
            first_query: query.map_or(0, |[first, _]| first),
            cache_batch: match keys {
                Some(_) => 0,
                None => of(self.cache_index).unwrap_or(batch),
            },
            first_key: keys.map_or(0, |[first, _]| first),
            causal: self.causal,
        }
    }

    /// The keys that a row may see before any mask hides some of them.
    pub fn visible(&self, sequence: &Sequence, row: usize) -> Range<usize> {
        let position = sequence.position(row);
        let mut first = sequence.kv_start as i64;
        let mut end = sequence.kv_len as i64;
        if self.causal != Causal::None {
            // An image's rows see the whole image.
            let span_end = self.span_ends.map_or(0, |ends| {
                let first = match self.query_offsets {
                    Some(_) => sequence.first_query,
                    None => sequence.batch * self.q_len,
                };
                i64::from(ends[first + row])
            });
            end = end.min(span_end.max(position + 1));
        } else if let Some(right) = self.window_right {
            end = end.min(position + right as i64 + 1);
        }
        if self.window > 0 {
            first = first.max(position - self.window as i64 + 1);
        }
        if self.chunk > 0 {
            let chunk = self.chunk as i64;
            let of_row = position.div_euclid(chunk);
            first = first.max(of_row * chunk);
            end = end.min((of_row + 1) * chunk);
        }
        if first < end { first as usize..end as usize } else { 0..0 }
    }
}
