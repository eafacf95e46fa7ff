//! A tile of prefill: query rows of one key/value head, which keys each of them sees, and its packed
//! copies of queries, keys and values.

use crate::cpu::heuristics::{MAX_BLOCK_ROWS, PANEL, PrefillPlan, ROWS_AHEAD};
use crate::cpu::rows;
use crate::cpu::softmax::{self, QueryScale};
use crate::cpu::vector::{Element, MAX_LANES, Vector};
use crate::problem::{Problem, Sequence};
use std::ops::Range;

/// Arrays of one number per row: maximum (of scores in powers of two), denominator, rescaling factor,
/// first and end of the keys it sees.
const PER_ROW: usize = 5;

impl PrefillPlan {
    /// Floats of the parts of a task's scratch: queries, keys, values, scores, output, statistics.
    pub fn parts(&self, p: &Problem) -> [usize; 6] {
        [
            self.rows * p.head_dim,
            (self.keys + MAX_BLOCK_ROWS) * p.head_dim,
            self.keys * self.columns,
            (self.keys + MAX_BLOCK_ROWS) * PANEL,
            self.rows * self.columns,
            self.rows * PER_ROW,
        ]
        .map(|floats| floats.next_multiple_of(16))
    }
}

/// One task's place in the problem and its parts of the scratch.
pub struct Tile<'a> {
    pub p: &'a Problem,
    pub plan: &'a PrefillPlan,
    pub batch: usize,
    pub sequence: Sequence,
    pub kv_head: usize,
    /// The query heads of the tile.
    first_head: usize,
    heads: usize,
    pub first_position: usize,
    /// Rows in use; the rest of the last panel repeats the last row's mask over zero queries.
    pub rows: usize,
    pub queries: *mut f32,
    pub keys: *mut f32,
    pub values: *mut f32,
    pub scores: *mut f32,
    pub output: *mut f32,
    pub max: *mut f32,
    pub sum: *mut f32,
    pub factor: *mut f32,
    /// The keys that each row sees.
    first: *mut u32,
    end: *mut u32,
}

/// Consecutive keys of a tile.
#[derive(Clone, Copy)]
pub struct Keys {
    pub first: usize,
    pub count: usize,
}

/// Which of some keys rows see, counted from the first of the keys.
pub struct Seen {
    /// By any of them.
    pub any: Range<usize>,
    /// By each of them; within `any`.
    pub all: Range<usize>,
}

impl<'a> Tile<'a> {
    /// Nothing, where the sequence has no such rows.
    ///
    /// # Safety
    /// As [`crate::cpu::level::Task`].
    pub unsafe fn new(
        p: &'a Problem,
        plan: &'a PrefillPlan,
        task: usize,
        scratch: &mut [f32],
    ) -> Option<Self> {
        let mut part = scratch.as_mut_ptr();
        let [queries, keys, values, scores, output, per_row] = plan.parts(p).map(|floats| {
            let start = part;
            part = part.wrapping_add(floats);
            start
        });
        // Head by head, so that a head's keys and values come from a cache for all tiles but the
        // first. Causal tiles at the end see the most keys; starting with them keeps the threads even.
        let (pair, part) =
            (task / plan.tiles / plan.head_parts, task / plan.tiles % plan.head_parts);
        let (batch, kv_head) = (pair / p.kv_heads, pair % p.kv_heads);
        let in_group = part * plan.heads;
        let heads = plan.heads.min(p.group() - in_group);
        let first_position = (plan.tiles - 1 - task % plan.tiles) * plan.positions;
        // SAFETY: the problem is on the CPU and was checked in full.
        let sequence = unsafe { p.sequence(batch) };
        let positions = plan.positions.min(sequence.q_len.saturating_sub(first_position));
        if positions == 0 {
            return None;
        }
        let array = |index: usize| per_row.wrapping_add(index * plan.rows);
        let tile = Self {
            p,
            plan,
            batch,
            sequence,
            kv_head,
            first_head: kv_head * p.group() + in_group,
            heads,
            first_position,
            rows: positions * heads,
            queries,
            keys,
            values,
            scores,
            output,
            max: array(0),
            sum: array(1),
            factor: array(2),
            first: array(3).cast(),
            end: array(4).cast(),
        };
        for row in 0..plan.rows {
            let position = tile.position_of(row.min(tile.rows - 1));
            // SAFETY: as above; the arrays have room for all rows.
            unsafe {
                let visible = p.visible.row(&tile.sequence, position);
                tile.first.add(row).write(visible.start as u32);
                tile.end.add(row).write(visible.end as u32);
            }
        }
        Some(tile)
    }

    pub fn head_of(&self, row: usize) -> usize {
        self.first_head + row % self.heads
    }

    pub fn position_of(&self, row: usize) -> usize {
        self.first_position + row / self.heads
    }

    /// A row's place among the query's, the output's and the LSE's: its batch entry and row.
    pub fn place_of(&self, row: usize) -> (usize, usize) {
        (self.sequence.query_batch, self.sequence.query_row + self.position_of(row))
    }

    /// All keys between the first and the last that any row of the tile sees.
    pub fn visible(&self) -> Range<usize> {
        let everything = Keys { first: 0, count: self.sequence.kv_end };
        self.seen_by(0, self.rows, everything).any
    }

    /// Which of `keys` a row sees.
    #[inline(always)]
    pub fn seen(&self, row: usize, keys: Keys) -> Range<usize> {
        // SAFETY: the arrays have an entry for every row.
        let (first, end) = unsafe { (*self.first.add(row) as usize, *self.end.add(row) as usize) };
        let start = first.saturating_sub(keys.first).min(keys.count);
        start..end.saturating_sub(keys.first).min(keys.count).max(start)
    }

    /// Which of `keys` some rows see.
    #[inline(always)]
    pub fn seen_by(&self, row: usize, rows: usize, keys: Keys) -> Seen {
        let mut any = keys.count..0;
        let mut all = 0..keys.count;
        for row in row..row + rows {
            let seen = self.seen(row, keys);
            all = all.start.max(seen.start)..all.end.min(seen.end);
            if !seen.is_empty() {
                any = any.start.min(seen.start)..any.end.max(seen.end);
            }
        }
        let any = any.start.min(any.end)..any.end;
        let middle = all.start.clamp(any.start, any.end);
        Seen { all: middle..all.end.clamp(middle, any.end), any }
    }

    /// The rows of memory that the tile touches after the block before `next`: that block's keys and
    /// values, or the output once there is none.
    pub fn upcoming(&self, next: Keys) -> usize {
        if next.count > 0 { 2 * next.count } else { self.rows }
    }

    /// Hints that the upcoming rows `from..to` are touched soon.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub unsafe fn prefetch<V: Vector>(&self, next: Keys, from: usize, to: usize) {
        let (p, s) = (self.p, &self.sequence);
        for row in from..to {
            let (view, batch, at, head, head_dim) = match next.count {
                0 => {
                    let (batch, at) = self.place_of(row);
                    (&p.output, batch, at, self.head_of(row), p.value_head_dim)
                }
                count => {
                    let (view, key, head_dim) = match row.checked_sub(count) {
                        None => (&p.key, row, p.head_dim),
                        Some(key) => (&p.value, key, p.value_head_dim),
                    };
                    let at = s.cache_row + next.first + key;
                    (view, s.cache_batch, at, self.kv_head, head_dim)
                }
            };
            // SAFETY: the caller's.
            unsafe { rows::prefetch::<V>(view, batch, at, head, head_dim) };
        }
    }

    /// Packs scaled queries as `[panel][d][row]` and starts the statistics and the output at zero.
    ///
    /// # Safety
    /// As [`crate::cpu::level::Task`].
    #[inline(always)]
    pub unsafe fn pack_queries<V: Vector, Q: Element>(&self, scale: QueryScale) {
        let (p, plan) = (self.p, self.plan);
        // SAFETY: as the task's.
        unsafe {
            self.queries.write_bytes(0, plan.rows * p.head_dim);
            for row in 0..self.rows {
                let (batch, ahead) = self.place_of(row + ROWS_AHEAD);
                let head = self.head_of(row + ROWS_AHEAD);
                rows::prefetch::<V>(&p.query, batch, ahead, head, p.head_dim);
                let (batch, at) = self.place_of(row);
                let from = p.query.head::<Q>(batch, at, self.head_of(row));
                let to = self.queries.add(row / PANEL * PANEL * p.head_dim + row % PANEL);
                for d in (0..p.head_dim).step_by(V::LANES) {
                    let mut lanes = [0.0f32; MAX_LANES];
                    let query: V = Q::load_up_to(from.add(d), p.head_dim - d);
                    scale.apply(query).store(lanes.as_mut_ptr());
                    for (i, lane) in lanes.iter().enumerate().take(V::LANES.min(p.head_dim - d)) {
                        *to.add((d + i) * PANEL) = *lane;
                    }
                }
            }
            for row in 0..plan.rows {
                *self.max.add(row) = softmax::NO_MAX;
                *self.sum.add(row) = 0.0;
            }
            self.output.write_bytes(0, plan.rows * plan.columns);
        }
    }

    /// Copies a block of keys to consecutive rows, as float32. In the cache they lie a power of two
    /// apart as a rule, where a handful of rows evict each other from every cache level.
    ///
    /// # Safety
    /// As [`crate::cpu::level::Task`].
    #[inline(always)]
    pub unsafe fn pack_keys<V: Vector, E: Element>(&self, keys: Keys) {
        let (p, s, head_dim) = (self.p, &self.sequence, self.p.head_dim);
        // SAFETY: as the task's; there is room for the padding of the last register block.
        unsafe {
            for key in 0..keys.count {
                let at = s.cache_row + keys.first + key;
                let from = p.key.head::<E>(s.cache_batch, at, self.kv_head);
                let to = self.keys.add(key * head_dim);
                for d in (0..head_dim).step_by(V::LANES) {
                    let row: V = E::load_up_to(from.add(d), head_dim - d);
                    f32::store_up_to(row, to.add(d), head_dim - d);
                }
            }
            self.keys.add(keys.count * head_dim).write_bytes(0, MAX_BLOCK_ROWS * head_dim);
        }
    }

    /// Packs a block of values as `[column panel][key][column]`, as float32 and zero past their end.
    ///
    /// # Safety
    /// As [`crate::cpu::level::Task`].
    #[inline(always)]
    pub unsafe fn pack_values<V: Vector, E: Element, const VECTORS: usize>(&self, keys: Keys) {
        let (p, s, plan) = (self.p, &self.sequence, self.plan);
        // SAFETY: as the task's.
        unsafe {
            for key in 0..keys.count {
                let row = s.cache_row + keys.first + key;
                let from = p.value.head::<E>(s.cache_batch, row, self.kv_head);
                let mut panel = 0;
                while panel < plan.columns {
                    // What is left of the columns makes panels of one vector each.
                    let left = plan.columns - panel;
                    let width =
                        if left < VECTORS * V::LANES { V::LANES } else { VECTORS * V::LANES };
                    let to = self.values.add(panel * plan.keys + key * width);
                    for column in (0..width).step_by(V::LANES) {
                        let at = panel + column;
                        let value: V = E::load_up_to(from.add(at), p.value_head_dim - at);
                        value.store(to.add(column));
                    }
                    panel += width;
                }
            }
        }
    }
}
