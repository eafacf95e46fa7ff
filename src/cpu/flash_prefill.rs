//! Flash prefill: tiles of query rows against blocks of keys, online softmax.
//!
//! A task owns one key/value head and a tile of consecutive query positions, with all query heads
//! of the group as rows of the tile, so that each block of keys and values is read once for them
//! all. Per block, and per panel of rows, three steps run in caches:
//!
//! 1. scores, transposed (`[key][row]`): keys are broadcast against packed queries;
//! 2. softmax down the columns, so that maxima and sums need no work across lanes;
//! 3. output += weights · values, with the rescaling of online softmax folded into its first use.
//!
//! Both products run on [`tile_product`], one register-blocked loop. Blocks that no row of a tile
//! sees are never visited; where only some rows of a panel see a key, scores are computed for one
//! vector of rows at a time, as far as any of them sees, and a key's value touches exactly the rows
//! that see it.

pub use crate::cpu::heuristics::PrefillPlan;
use crate::cpu::heuristics::{MAX_BLOCK_ROWS, PANEL};
use crate::cpu::level::{Proven, Task};
use crate::cpu::product::{Panel, Start, Strided, tile_product};
use crate::cpu::reason::Reason;
use crate::cpu::rows::{self, CacheRows};
use crate::cpu::scores::{ScorePass, pass_of};
use crate::cpu::softmax::Finisher;
use crate::cpu::threads::{self, Crew};
use crate::cpu::tile::{Keys, Seen, Tile};
use crate::cpu::vector::{Element, MAX_LANES, Vector, exp2_nonpositive, with_element};
use crate::cpu::{require_dtypes, require_head_dims};
use crate::error;
use crate::problem::Problem;
use std::ops::Range;

pub fn supports(p: &Problem) -> Result<(), Reason> {
    require_dtypes(p)?;
    require_head_dims(p)
}

/// Prefill stores no scores: its scratch belongs to the threads and does not grow with length.
pub fn run(p: &Problem, task: Proven<Task<PrefillPlan>>) -> error::Result<()> {
    let plan = PrefillPlan::new(p, task.lanes, Crew::of(p).count());
    let scratch = plan.parts(p).iter().sum();
    let bytes = p.batch * p.heads * p.q_len * p.kv_len * 8;
    let tasks = p.batch * p.kv_heads * plan.head_parts * plan.tiles;
    threads::run(Crew::of(p), tasks, scratch, bytes, |index, scratch| {
        // SAFETY: `supports` accepted the problem; every index is handed out once.
        unsafe { task.function()(p, &plan, index, scratch) }
    })
}

/// Attends one tile of query rows with one key/value head.
///
/// The register block of the scores is `KEY_ROWS` keys by `QUERY_VECTORS` vectors of query rows, that
/// of the output `VALUE_ROWS` query rows by `VALUE_VECTORS` vectors of columns.
///
/// # Safety
/// As [`crate::cpu::level::Task`].
#[inline(always)]
pub unsafe fn task<
    V: Vector,
    const KEY_ROWS: usize,
    const QUERY_VECTORS: usize,
    const VALUE_ROWS: usize,
    const VALUE_VECTORS: usize,
>(
    p: &Problem,
    plan: &PrefillPlan,
    task: usize,
    scratch: &mut [f32],
) {
    const {
        assert!(PANEL.is_multiple_of(QUERY_VECTORS * V::LANES) && PANEL.is_multiple_of(VALUE_ROWS));
        assert!(KEY_ROWS <= MAX_BLOCK_ROWS && VALUE_ROWS <= MAX_BLOCK_ROWS);
    }
    let (scale, pass) = pass_of(p);
    // SAFETY: the tile's rows and keys are inside the problem, its parts inside the scratch.
    unsafe {
        let Some(tile) = Tile::new(p, plan, task, scratch) else { return };
        with_element!(p.query.dtype, Q => tile.pack_queries::<V, Q>(scale));
        let visible = tile.visible();
        // Blocks lie on a grid from key 0, wherever the visible keys begin.
        let block = |first: usize| {
            let end = (first + plan.keys) / plan.keys * plan.keys;
            Keys { first, count: end.min(visible.end).saturating_sub(first) }
        };
        let mut keys = block(visible.start);
        while keys.count > 0 {
            with_element!(p.key.dtype, E => {
                tile.pack_keys::<V, E>(keys);
                tile.pack_values::<V, E, VALUE_VECTORS>(keys);
            });
            let next = block(keys.first + keys.count);
            for row in (0..tile.rows).step_by(PANEL) {
                let seen = tile.seen_by(row, PANEL, keys);
                if !seen.any.is_empty() {
                    score_panel::<V, KEY_ROWS, QUERY_VECTORS>(&tile, row, keys, &seen, next, &pass);
                    softmax_panel::<V>(&tile, row, keys, &seen);
                    sum_panel::<V, VALUE_ROWS, VALUE_VECTORS>(&tile, row, keys, &seen);
                }
            }
            keys = next;
        }
        with_element!(p.output.dtype, O => write_output::<V, O>(&tile));
    }
}

/// Which keys the rows of one vector see: where every row of the panel sees all that any does, that
/// is known.
#[inline(always)]
fn seen_by_vector<V: Vector>(tile: &Tile, row: usize, keys: Keys, panel: &Seen) -> Seen {
    if panel.all == panel.any {
        return Seen { any: panel.any.clone(), all: panel.all.clone() };
    }
    tile.seen_by(row, V::LANES, keys)
}

/// `scores[key][row] = key . query` for one panel, -infinity where a row does not see a key.
#[inline(always)]
unsafe fn score_panel<V: Vector, const KEY_ROWS: usize, const QUERY_VECTORS: usize>(
    tile: &Tile,
    first_row: usize,
    keys: Keys,
    panel: &Seen,
    next: Keys,
    pass: &Option<ScorePass>,
) {
    let in_use = tile.rows - first_row;
    // Whole register blocks of keys that all rows see.
    let start = panel.all.start.next_multiple_of(KEY_ROWS);
    let end = if in_use < PANEL { 0 } else { panel.all.end / KEY_ROWS * KEY_ROWS };
    let common = start..end.max(start);
    // SAFETY: as the task's.
    unsafe {
        let upcoming = |row: usize| (tile.upcoming(next) * row).div_ceil(tile.rows);
        let (from, to) = (upcoming(first_row), upcoming(tile.rows.min(first_row + PANEL)));
        let mut ahead = from;
        for key in common.clone().step_by(KEY_ROWS) {
            let upto = from + (to - from) * (key - common.start + KEY_ROWS) / common.len();
            tile.prefetch::<V>(next, ahead, upto);
            ahead = upto;
            for lane in (0..PANEL).step_by(QUERY_VECTORS * V::LANES) {
                score_block::<V, KEY_ROWS, QUERY_VECTORS>(tile, first_row, lane, key);
            }
        }
        tile.prefetch::<V>(next, ahead, to);
        for lane in (0..PANEL.min(in_use)).step_by(V::LANES) {
            let row = first_row + lane;
            let seen = seen_by_vector::<V>(tile, row, keys, panel);
            let first = seen.any.start / KEY_ROWS * KEY_ROWS;
            let before = first..common.start.min(seen.any.end);
            for key in before.step_by(KEY_ROWS).chain((common.end..seen.any.end).step_by(KEY_ROWS))
            {
                score_block::<V, KEY_ROWS, 1>(tile, first_row, lane, key);
            }
            if let Some(pass) = pass {
                modify_column::<V>(tile, row, lane, keys, seen.any.clone(), pass);
            }
            mask_column::<V>(tile, row, lane, keys, &seen);
        }
    }
}

/// Scores of `KEY_ROWS` keys with `VECTORS` vectors of a panel's rows from `lane` on.
#[inline(always)]
unsafe fn score_block<V: Vector, const KEY_ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    first_row: usize,
    lane: usize,
    key: usize,
) {
    let head_dim = tile.p.head_dim;
    let keys = Strided { at: tile.keys.wrapping_add(key * head_dim), row: head_dim, depth: 1 };
    let queries =
        Panel { at: tile.queries.wrapping_add(first_row * head_dim + lane), width: PANEL };
    let to = tile.scores.wrapping_add(key * PANEL + lane);
    // SAFETY: as the task's.
    unsafe {
        tile_product::<V, KEY_ROWS, VECTORS>(head_dim, keys, queries, to, PANEL, Start::Zero);
    }
}

/// The pass over the scores of one vector of rows.
#[inline(always)]
unsafe fn modify_column<V: Vector>(
    tile: &Tile,
    row: usize,
    lane: usize,
    keys: Keys,
    seen: Range<usize>,
    pass: &ScorePass,
) {
    let (mut slopes, mut away) = ([0.0f32; MAX_LANES], [0.0f32; MAX_LANES]);
    // SAFETY: as the task's.
    unsafe {
        for i in 0..V::LANES.min(tile.rows - row) {
            let own = tile.p.visible.position(&tile.sequence, tile.position_of(row + i));
            slopes[i] = pass.slope(tile.batch, tile.head_of(row + i));
            away[i] = (own - keys.first as i64) as f32;
        }
        let (slopes, away) = (V::load(slopes.as_ptr()), V::load(away.as_ptr()));
        for key in seen {
            let at = tile.scores.add(key * PANEL + lane);
            pass.apply(V::load(at), slopes, away.sub(V::splat(key as f32))).store(at);
        }
    }
}

/// Sets the scores of keys that a row does not see to -infinity, in one vector of rows.
#[inline(always)]
unsafe fn mask_column<V: Vector>(tile: &Tile, row: usize, lane: usize, keys: Keys, seen: &Seen) {
    if seen.all == seen.any {
        return;
    }
    let (mut firsts, mut ends) = ([0.0f32; MAX_LANES], [0.0f32; MAX_LANES]);
    for i in 0..V::LANES {
        let own = tile.seen(row + i, keys);
        (firsts[i], ends[i]) = (own.start as f32, own.end as f32);
    }
    // SAFETY: as the task's.
    unsafe {
        let (firsts, ends) = (V::load(firsts.as_ptr()), V::load(ends.as_ptr()));
        let hidden = V::splat(f32::NEG_INFINITY);
        for key in (seen.any.start..seen.all.start).chain(seen.all.end..seen.any.end) {
            let at = tile.scores.add(key * PANEL + lane);
            let score = V::select_less(V::splat(key as f32), firsts, hidden, V::load(at));
            V::select_less(ends, V::splat((key + 1) as f32), hidden, score).store(at);
        }
    }
}

/// Turns a panel's scores into weights and updates its rows' statistics.
#[inline(always)]
unsafe fn softmax_panel<V: Vector>(tile: &Tile, first_row: usize, keys: Keys, panel: &Seen) {
    // SAFETY: as the task's.
    unsafe {
        for lane in (0..PANEL.min(tile.rows - first_row)).step_by(V::LANES) {
            let row = first_row + lane;
            let seen = seen_by_vector::<V>(tile, row, keys, panel).any;
            let column = tile.scores.add(lane);
            let old_max = V::load(tile.max.add(row));
            let mut max = old_max;
            for key in seen.clone() {
                max = max.max(V::load(column.add(key * PANEL)));
            }
            let factor = exp2_nonpositive(old_max.sub(max));
            let mut sum = V::load(tile.sum.add(row)).mul(factor);
            for key in seen {
                let at = column.add(key * PANEL);
                let weight = exp2_nonpositive(V::load(at).sub(max));
                weight.store(at);
                sum = sum.add(weight);
            }
            max.store(tile.max.add(row));
            sum.store(tile.sum.add(row));
            factor.store(tile.factor.add(row));
        }
    }
}

/// `output = output * factor + weights . values` for one panel.
#[inline(always)]
unsafe fn sum_panel<V: Vector, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    first_row: usize,
    keys: Keys,
    panel: &Seen,
) {
    let columns = tile.plan.columns;
    let end = tile.rows.min(first_row + PANEL);
    // What every row of a register block sees.
    let mut common = [const { 0..0 }; PANEL];
    for row in (first_row..end).step_by(ROWS) {
        common[row - first_row] = match panel.all == panel.any {
            true => panel.all.clone(),
            false => tile.seen_by(row, ROWS, keys).all,
        };
    }
    // SAFETY: as the task's.
    unsafe {
        let mut column = 0;
        while column + VECTORS * V::LANES <= columns {
            sum_columns::<V, ROWS, VECTORS>(tile, first_row, &common, column);
            column += VECTORS * V::LANES;
        }
        while column < columns {
            sum_columns::<V, ROWS, 1>(tile, first_row, &common, column);
            column += V::LANES;
        }
        if panel.all == panel.any {
            return;
        }
        // What only some rows of a register block see, row by row.
        for row in first_row..end {
            let shared = &common[(row - first_row) / ROWS * ROWS];
            let own = tile.seen(row, keys);
            let before = own.start..shared.start.min(own.end);
            let after = shared.end.max(own.start)..own.end;
            for more in [before, after] {
                sum_row::<V>(tile, first_row, row, more, keys);
            }
        }
    }
}

/// One column panel of the weighted sum, over the keys that all rows of a register block see.
#[inline(always)]
unsafe fn sum_columns<V: Vector, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    first_row: usize,
    common: &[Range<usize>; PANEL],
    column: usize,
) {
    let columns = tile.plan.columns;
    let width = VECTORS * V::LANES;
    for row in (first_row..tile.rows.min(first_row + PANEL)).step_by(ROWS) {
        let Range { start: key, end } = common[row - first_row];
        let values =
            Panel { at: tile.values.wrapping_add(column * tile.plan.keys + key * width), width };
        let weights = Strided {
            at: tile.scores.wrapping_add(key * PANEL + row - first_row),
            row: 1,
            depth: PANEL,
        };
        let to = tile.output.wrapping_add(row * columns + column);
        // SAFETY: as the task's; output and statistics have room for whole register blocks.
        unsafe {
            let start = Start::Scaled(tile.factor.add(row));
            tile_product::<V, ROWS, VECTORS>(end - key, weights, values, to, columns, start);
        }
    }
}

/// Adds the values of more keys, which only some rows of a register block see, to one row.
#[inline(always)]
unsafe fn sum_row<V: Vector>(
    tile: &Tile,
    first_row: usize,
    row: usize,
    more: Range<usize>,
    keys: Keys,
) {
    let (p, s) = (tile.p, &tile.sequence);
    let sums = tile.output.wrapping_add(row * tile.plan.columns);
    for first in more.clone().step_by(MAX_BLOCK_ROWS) {
        let count = MAX_BLOCK_ROWS.min(more.end - first);
        let mut weights = [0.0f32; MAX_BLOCK_ROWS];
        // SAFETY: as the task's.
        unsafe {
            for (i, weight) in weights.iter_mut().enumerate().take(count) {
                *weight = *tile.scores.add((first + i) * PANEL + row - first_row);
            }
            with_element!(p.value.dtype, E => {
                let values = CacheRows::<E> {
                    first: p.value.head(s.cache_batch, s.cache_row + keys.first + first, tile.kv_head),
                    stride: p.value.row_stride,
                    count,
                    head_dim: p.value_head_dim,
                };
                rows::accumulate::<V, E>(1, weights.as_ptr(), 0, values, sums, 0);
            });
        }
    }
}

/// Writes the tile's rows, normalised, and their LSE.
#[inline(always)]
unsafe fn write_output<V: Vector, O: Element>(tile: &Tile) {
    let (p, finisher) = (tile.p, Finisher::of(tile.p));
    // SAFETY: as the task's; the LSE pointer is null or inside its array.
    unsafe {
        for row in 0..tile.rows {
            let ((batch, at), head) = (tile.place_of(row), tile.head_of(row));
            let finish = finisher.finish(head, *tile.max.add(row), *tile.sum.add(row));
            let from = tile.output.add(row * tile.plan.columns);
            let to = p.output.head::<O>(batch, at, head);
            rows::scale_row::<V, O>(from, finish.factor, p.value_head_dim, to);
            let lse = p.lse_at(batch, head, at);
            if !lse.is_null() {
                *lse = finish.lse;
            }
        }
    }
}

/// Floats of the scratch of a task on so many threads.
#[cfg(test)]
pub fn scratch_floats(p: &Problem, lanes: usize, threads: usize) -> usize {
    PrefillPlan::new(p, lanes, threads).parts(p).iter().sum()
}
