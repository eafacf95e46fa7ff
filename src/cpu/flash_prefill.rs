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
//! sees are never visited; on the diagonal, scores are computed for one vector of rows at a time, as
//! far as its last row sees, and a key's value touches exactly the rows that see it.

use crate::cpu::isa::Kernels;
use crate::cpu::reason::Reason;
use crate::cpu::rows::{self, CacheRows};
use crate::cpu::softmax::{self, Log2Scale};
use crate::cpu::threads;
use crate::cpu::vector::{Element, MAX_LANES, Vector, exp2_nonpositive, with_element};
use crate::cpu::{MAX_FLASH_HEAD_DIM, require_dtypes};
use crate::error;
use crate::problem::Problem;
use std::ops::Range;

/// Query rows of a panel, whose scores stay in the L1 cache between the three steps: a multiple of
/// every register block's rows.
const PANEL: usize = 48;

/// The most query heads of a tile, which bounds its scratch.
const MOST_HEADS: usize = 1024;

/// How many rows of memory packing looks ahead.
const ROWS_AHEAD: usize = 8;

/// The most rows of a register block.
const MAX_BLOCK_ROWS: usize = 12;

/// How a prefill problem is cut into tasks, and the shape of a task's scratch.
pub struct PrefillPlan {
    /// Query heads of a group per tile: all of them, unless the group is very large.
    heads: usize,
    /// Tiles that share a group's heads.
    head_parts: usize,
    /// Query positions per tile.
    positions: usize,
    /// Tiles of positions.
    tiles: usize,
    /// Rows of a tile, rounded up to whole panels.
    rows: usize,
    /// Keys per block.
    keys: usize,
    /// Columns of the output tile: head_dim rounded up to whole vectors.
    columns: usize,
}

impl PrefillPlan {
    fn new(p: &Problem, kernels: &Kernels, threads: usize) -> Self {
        // At head_dim 128: 48 KiB each for a block of keys and of values and its scores in the L1 cache
        // beside a panel; queries and output go through the L2 cache panel by panel.
        let keys = (12 * 1024 / p.head_dim).clamp(48, 96) / 16 * 16;
        let most_rows = (48 * 1024 / p.head_dim).clamp(PANEL, 576) / PANEL * PANEL;
        // Smaller tiles where there are few heads, so that every thread finds work.
        let pairs = p.batch * p.kv_heads;
        let shared = (p.q_len * p.group() * pairs).div_ceil(3 * threads).next_multiple_of(PANEL);
        let heads = p.group().div_ceil(p.group().div_ceil(MOST_HEADS));
        let positions = (most_rows.min(shared) / heads).clamp(1, p.q_len);
        Self {
            heads,
            head_parts: p.group().div_ceil(heads),
            positions,
            tiles: p.q_len.div_ceil(positions),
            rows: (positions * heads).next_multiple_of(PANEL),
            keys,
            columns: p.head_dim.next_multiple_of(kernels.lanes),
        }
    }

    /// Floats of the parts of a task's scratch: queries, keys, values, scores, output, statistics.
    fn parts(&self, p: &Problem) -> [usize; 6] {
        [
            self.rows * p.head_dim,
            (self.keys + MAX_BLOCK_ROWS) * p.head_dim,
            self.keys * self.columns,
            (self.keys + MAX_BLOCK_ROWS) * PANEL,
            self.rows * self.columns,
            self.rows * STATISTICS,
        ]
        .map(|floats| floats.next_multiple_of(16))
    }
}

/// Arrays of one float per row: maximum (of scores in powers of two), denominator, rescaling factor.
const STATISTICS: usize = 3;

pub fn supports(p: &Problem) -> Result<(), Reason> {
    require_dtypes(p)?;
    if p.head_dim > MAX_FLASH_HEAD_DIM {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: MAX_FLASH_HEAD_DIM });
    }
    Ok(())
}

pub fn run(p: &Problem, kernels: &Kernels) -> error::Result<()> {
    let plan = PrefillPlan::new(p, kernels, threads::count());
    let scratch = plan.parts(p).iter().sum();
    let bytes = p.batch * p.heads * p.q_len * p.kv_len * 8;
    let tasks = p.batch * p.kv_heads * plan.head_parts * plan.tiles;
    threads::run(tasks, scratch, bytes, |task, scratch| {
        // SAFETY: the table chose kernels that this CPU runs; `supports` accepted the problem.
        unsafe { (kernels.prefill)(p, &plan, task, scratch) }
    })
}

/// One task's place in the problem and its parts of the scratch.
struct Tile<'a> {
    p: &'a Problem,
    plan: &'a PrefillPlan,
    batch: usize,
    kv_head: usize,
    /// The query heads of the tile.
    first_head: usize,
    heads: usize,
    first_position: usize,
    /// Rows in use; the rest of the last panel repeats the last row's mask over zero queries.
    rows: usize,
    queries: *mut f32,
    keys: *mut f32,
    values: *mut f32,
    scores: *mut f32,
    output: *mut f32,
    max: *mut f32,
    sum: *mut f32,
    factor: *mut f32,
}

/// Consecutive keys of a tile.
#[derive(Clone, Copy)]
struct Keys {
    first: usize,
    count: usize,
}

impl Tile<'_> {
    fn head_of(&self, row: usize) -> usize {
        self.first_head + row % self.heads
    }

    fn position_of(&self, row: usize) -> usize {
        self.first_position + row / self.heads
    }

    /// Keys that a row of the tile sees, rows past the end like the last one.
    fn visible_keys(&self, row: usize) -> usize {
        self.p.visible_keys(self.position_of(row.min(self.rows - 1)))
    }

    /// The rows of memory that the tile touches after the block before `next`: that block's keys and
    /// values, or the output once there is none.
    fn upcoming(&self, next: Keys) -> usize {
        if next.count > 0 { 2 * next.count } else { self.rows }
    }

    /// Hints that the upcoming rows `from..to` are touched soon.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn prefetch<V: Vector>(&self, next: Keys, from: usize, to: usize) {
        let p = self.p;
        for row in from..to {
            let (view, position, head) = match next.count {
                0 => (&p.output, self.position_of(row), self.head_of(row)),
                count if row < count => (&p.key, next.first + row, self.kv_head),
                count => (&p.value, next.first + row - count, self.kv_head),
            };
            // SAFETY: the caller's.
            unsafe { rows::prefetch::<V>(view, self.batch, position, head, p.head_dim) };
        }
    }

    /// How many of `keys`, from the first, a row sees.
    fn seen(&self, row: usize, keys: Keys) -> usize {
        self.visible_keys(row).saturating_sub(keys.first).min(keys.count)
    }
}

/// Attends one tile of query rows with one key/value head.
///
/// The register block of the scores is `KEY_ROWS` keys by `QUERY_VECTORS` vectors of query rows, that
/// of the output `VALUE_ROWS` query rows by `VALUE_VECTORS` vectors of columns.
///
/// # Safety
/// As [`crate::cpu::isa::Task`].
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
    let mut part = scratch.as_mut_ptr();
    let [queries, keys, values, scores, output, statistics] = plan.parts(p).map(|floats| {
        let start = part;
        part = part.wrapping_add(floats);
        start
    });
    // Head by head, so that a head's keys and values come from a cache for all tiles but the first.
    // Causal tiles at the end see the most keys; starting with them keeps the threads even.
    let (pair, part) = (task / plan.tiles / plan.head_parts, task / plan.tiles % plan.head_parts);
    let (kv_head, in_group) = (pair % p.kv_heads, part * plan.heads);
    let heads = plan.heads.min(p.group() - in_group);
    let first_position = (plan.tiles - 1 - task % plan.tiles) * plan.positions;
    let positions = plan.positions.min(p.q_len - first_position);
    let tile = Tile {
        p,
        plan,
        batch: pair / p.kv_heads,
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
        max: statistics,
        sum: statistics.wrapping_add(plan.rows),
        factor: statistics.wrapping_add(2 * plan.rows),
    };
    let end = tile.visible_keys(tile.rows - 1);
    // SAFETY: the tile's rows and keys are inside the problem, the parts inside the scratch.
    unsafe {
        with_element!(p.query.dtype, Q => pack_queries::<V, Q>(&tile));
        for first in (0..end).step_by(plan.keys) {
            let keys = Keys { first, count: plan.keys.min(end - first) };
            with_element!(p.key.dtype, E => {
                pack_keys::<V, E>(&tile, keys);
                pack_values::<V, E, VALUE_VECTORS>(&tile, keys);
            });
            let next =
                Keys { first: first + keys.count, count: plan.keys.min(end - first - keys.count) };
            for row in (0..tile.rows).step_by(PANEL) {
                if tile.seen(row + PANEL - 1, keys) > 0 {
                    score_panel::<V, KEY_ROWS, QUERY_VECTORS>(&tile, row, keys, next);
                    softmax_panel::<V>(&tile, row, keys);
                    sum_panel::<V, VALUE_ROWS, VALUE_VECTORS>(&tile, row, keys);
                }
            }
        }
        with_element!(p.output.dtype, O => write_output::<V, O>(&tile));
    }
}

/// Packs scaled queries as `[panel][d][row]` and starts the statistics and the output at zero.
#[inline(always)]
unsafe fn pack_queries<V: Vector, Q: Element>(tile: &Tile) {
    let (p, plan, scale) = (tile.p, tile.plan, Log2Scale::new(tile.p.scale));
    // SAFETY: as the task's.
    unsafe {
        tile.queries.write_bytes(0, plan.rows * p.head_dim);
        for row in 0..tile.rows {
            let ahead = row + ROWS_AHEAD;
            let (position, head) = (tile.position_of(ahead), tile.head_of(ahead));
            rows::prefetch::<V>(&p.query, tile.batch, position, head, p.head_dim);
            let from = p.query.head::<Q>(tile.batch, tile.position_of(row), tile.head_of(row));
            let to = tile.queries.add(row / PANEL * PANEL * p.head_dim + row % PANEL);
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
            *tile.max.add(row) = softmax::NO_MAX;
            *tile.sum.add(row) = 0.0;
        }
        tile.output.write_bytes(0, plan.rows * plan.columns);
    }
}

/// Copies a block of keys to consecutive rows, as float32. In the cache they lie a power of two apart
/// as a rule, where a handful of rows evict each other from every cache level.
#[inline(always)]
unsafe fn pack_keys<V: Vector, E: Element>(tile: &Tile, keys: Keys) {
    let (p, head_dim) = (tile.p, tile.p.head_dim);
    // SAFETY: as the task's; there is room for the padding of the last register block.
    unsafe {
        for key in 0..keys.count {
            let from = p.key.head::<E>(tile.batch, keys.first + key, tile.kv_head);
            let to = tile.keys.add(key * head_dim);
            for d in (0..head_dim).step_by(V::LANES) {
                let row: V = E::load_up_to(from.add(d), head_dim - d);
                f32::store_up_to(row, to.add(d), head_dim - d);
            }
        }
        tile.keys.add(keys.count * head_dim).write_bytes(0, MAX_BLOCK_ROWS * head_dim);
    }
}

/// Packs a block of values as `[column panel][key][column]`, as float32 and zero past head_dim.
#[inline(always)]
unsafe fn pack_values<V: Vector, E: Element, const VECTORS: usize>(tile: &Tile, keys: Keys) {
    let (p, plan) = (tile.p, tile.plan);
    // SAFETY: as the task's.
    unsafe {
        for key in 0..keys.count {
            let from = p.value.head::<E>(tile.batch, keys.first + key, tile.kv_head);
            let mut panel = 0;
            while panel < plan.columns {
                // What is left of the columns makes panels of one vector each.
                let left = plan.columns - panel;
                let width = if left < VECTORS * V::LANES { V::LANES } else { VECTORS * V::LANES };
                let to = tile.values.add(panel * plan.keys + key * width);
                for column in (0..width).step_by(V::LANES) {
                    let at = panel + column;
                    let value: V = E::load_up_to(from.add(at), p.head_dim - at);
                    value.store(to.add(column));
                }
                panel += width;
            }
        }
    }
}

/// `scores[key][row] = key . query` for one panel, -infinity where a row does not see a key.
#[inline(always)]
unsafe fn score_panel<V: Vector, const KEY_ROWS: usize, const QUERY_VECTORS: usize>(
    tile: &Tile,
    first_row: usize,
    keys: Keys,
    next: Keys,
) {
    let in_use = tile.rows - first_row;
    let common = if in_use < PANEL { 0 } else { tile.seen(first_row, keys) / KEY_ROWS * KEY_ROWS };
    // SAFETY: as the task's.
    unsafe {
        let upcoming = |row: usize| (tile.upcoming(next) * row).div_ceil(tile.rows);
        let (from, to) = (upcoming(first_row), upcoming(tile.rows.min(first_row + PANEL)));
        let mut ahead = from;
        for key in (0..common).step_by(KEY_ROWS) {
            let upto = from + (to - from) * (key + KEY_ROWS) / common;
            tile.prefetch::<V>(next, ahead, upto);
            ahead = upto;
            for lane in (0..PANEL).step_by(QUERY_VECTORS * V::LANES) {
                score_block::<V, KEY_ROWS, QUERY_VECTORS>(tile, first_row, lane, key);
            }
        }
        tile.prefetch::<V>(next, ahead, to);
        for lane in (0..PANEL.min(in_use)).step_by(V::LANES) {
            let seen = tile.seen(first_row + lane + V::LANES - 1, keys);
            for key in (common..seen).step_by(KEY_ROWS) {
                score_block::<V, KEY_ROWS, 1>(tile, first_row, lane, key);
            }
            mask_column::<V>(tile, first_row + lane, lane, keys, seen);
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

/// Sets the scores of keys that a row does not see to -infinity, in one vector of rows.
#[inline(always)]
unsafe fn mask_column<V: Vector>(tile: &Tile, row: usize, lane: usize, keys: Keys, seen: usize) {
    let seen_by_all = tile.seen(row, keys);
    if seen_by_all == seen {
        return;
    }
    let mut counts = [0.0f32; MAX_LANES];
    for (i, count) in counts.iter_mut().enumerate().take(V::LANES) {
        *count = tile.seen(row + i, keys) as f32;
    }
    // SAFETY: as the task's.
    unsafe {
        let counts = V::load(counts.as_ptr());
        for key in seen_by_all..seen {
            let at = tile.scores.add(key * PANEL + lane);
            let rank = V::splat((key + 1) as f32);
            V::select_less(counts, rank, V::splat(f32::NEG_INFINITY), V::load(at)).store(at);
        }
    }
}

/// Turns a panel's scores into weights and updates its rows' statistics.
#[inline(always)]
unsafe fn softmax_panel<V: Vector>(tile: &Tile, first_row: usize, keys: Keys) {
    // SAFETY: as the task's.
    unsafe {
        for lane in (0..PANEL.min(tile.rows - first_row)).step_by(V::LANES) {
            let row = first_row + lane;
            let seen = tile.seen(row + V::LANES - 1, keys);
            let column = tile.scores.add(lane);
            let old_max = V::load(tile.max.add(row));
            let mut max = old_max;
            for key in 0..seen {
                max = max.max(V::load(column.add(key * PANEL)));
            }
            let factor = exp2_nonpositive(old_max.sub(max));
            let mut sum = V::load(tile.sum.add(row)).mul(factor);
            for key in 0..seen {
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
) {
    let columns = tile.plan.columns;
    // SAFETY: as the task's.
    unsafe {
        let mut column = 0;
        while column + VECTORS * V::LANES <= columns {
            sum_columns::<V, ROWS, VECTORS>(tile, first_row, keys, column);
            column += VECTORS * V::LANES;
        }
        while column < columns {
            sum_columns::<V, ROWS, 1>(tile, first_row, keys, column);
            column += V::LANES;
        }
        // What only some rows of a register block see, row by row.
        for row in first_row..tile.rows.min(first_row + PANEL) {
            let block = row - (row - first_row) % ROWS;
            let (from, to) = (tile.seen(block, keys), tile.seen(row, keys));
            if from < to {
                sum_row::<V>(tile, first_row, row, from..to, keys);
            }
        }
    }
}

/// One column panel of the weighted sum, over the keys that all rows of a register block see.
#[inline(always)]
unsafe fn sum_columns<V: Vector, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    first_row: usize,
    keys: Keys,
    column: usize,
) {
    let columns = tile.plan.columns;
    let values =
        Panel { at: tile.values.wrapping_add(column * tile.plan.keys), width: VECTORS * V::LANES };
    for row in (first_row..tile.rows.min(first_row + PANEL)).step_by(ROWS) {
        let weights =
            Strided { at: tile.scores.wrapping_add(row - first_row), row: 1, depth: PANEL };
        let to = tile.output.wrapping_add(row * columns + column);
        let depth = tile.seen(row, keys);
        // SAFETY: as the task's; output and statistics have room for whole register blocks.
        unsafe {
            let start = Start::Scaled(tile.factor.add(row));
            tile_product::<V, ROWS, VECTORS>(depth, weights, values, to, columns, start);
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
    let p = tile.p;
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
                    first: p.value.head(tile.batch, keys.first + first, tile.kv_head),
                    stride: p.value.row_stride,
                    count,
                    head_dim: p.head_dim,
                };
                rows::accumulate::<V, E>(1, weights.as_ptr(), 0, values, sums, 0);
            });
        }
    }
}

/// Writes the tile's rows, normalised, and their LSE.
#[inline(always)]
unsafe fn write_output<V: Vector, O: Element>(tile: &Tile) {
    let p = tile.p;
    // SAFETY: as the task's; the LSE pointer is null or inside its array.
    unsafe {
        for row in 0..tile.rows {
            let (position, head) = (tile.position_of(row), tile.head_of(row));
            let finish = softmax::finish(*tile.max.add(row), *tile.sum.add(row));
            let from = tile.output.add(row * tile.plan.columns);
            let to = p.output.head::<O>(tile.batch, position, head);
            rows::scale_row::<V, O>(from, finish.factor, p.head_dim, to);
            let lse = p.lse_at(tile.batch, head, position);
            if !lse.is_null() {
                *lse = finish.lse;
            }
        }
    }
}

/// The left factor of a product: element `(row, k)` lies at `row * self.row + k * self.depth`.
#[derive(Clone, Copy)]
struct Strided {
    at: *const f32,
    row: usize,
    depth: usize,
}

/// The right factor of a product: rows of columns, `width` apart.
#[derive(Clone, Copy)]
struct Panel {
    at: *const f32,
    width: usize,
}

/// What a product is added to.
#[derive(Clone, Copy)]
enum Start {
    Zero,
    /// What the destination holds, each row times its own factor.
    Scaled(*const f32),
}

/// `to = start + left . right`: `ROWS` rows by `VECTORS` vectors of columns held in registers,
/// over `depth` products. Rows of `to` are `to_stride` apart.
#[inline(always)]
unsafe fn tile_product<V: Vector, const ROWS: usize, const VECTORS: usize>(
    depth: usize,
    left: Strided,
    right: Panel,
    to: *mut f32,
    to_stride: usize,
    start: Start,
) {
    // SAFETY: the caller hands over pointers valid for the shapes above.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        if let Start::Scaled(factors) = start {
            for r in 0..ROWS {
                let factor = V::splat(*factors.add(r));
                for v in 0..VECTORS {
                    sums[r][v] = V::load(to.add(r * to_stride + v * V::LANES)).mul(factor);
                }
            }
        }
        for k in 0..depth {
            let mut columns = [V::splat(0.0); VECTORS];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = V::load(right.at.add(k * right.width + v * V::LANES));
            }
            for r in 0..ROWS {
                let factor = V::splat(*left.at.add(r * left.row + k * left.depth));
                for v in 0..VECTORS {
                    sums[r][v] = columns[v].mul_add(factor, sums[r][v]);
                }
            }
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                sums[r][v].store(to.add(r * to_stride + v * V::LANES));
            }
        }
    }
}

/// Floats of the scratch of a task on so many threads.
#[cfg(test)]
pub fn scratch_floats(p: &Problem, kernels: &Kernels, threads: usize) -> usize {
    PrefillPlan::new(p, kernels, threads).parts(p).iter().sum()
}
