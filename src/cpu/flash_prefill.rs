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
//! Both products run on [`tile`], one register-blocked loop. Blocks that no row of a tile sees are
//! never visited; in blocks on the diagonal, a key's value touches exactly the rows that see it.

use crate::cpu::isa::Kernels;
use crate::cpu::reason::Reason;
use crate::cpu::threads;
use crate::cpu::vector::{Vector, exp_nonpositive, load_up_to, store_up_to};
use crate::cpu::{MAX_FLASH_HEAD_DIM, require_fp32};
use crate::problem::Problem;

/// Vectors of rows in a panel, the unit of the score product.
const PANEL_VECTORS: usize = 3;
/// Vectors of output columns in the value product.
const VALUE_VECTORS: usize = 2;

/// Query rows of a panel.
pub const fn panel_rows<V: Vector>() -> usize {
    PANEL_VECTORS * V::LANES
}

/// Output columns of a value panel.
pub const fn value_panel<V: Vector>() -> usize {
    VALUE_VECTORS * V::LANES
}

/// How a prefill problem is cut into tasks, and the shape of a task's scratch.
pub struct PrefillPlan {
    /// Query positions per tile.
    positions: usize,
    /// Tiles per key/value head.
    tiles: usize,
    /// Rows of a tile, rounded up to whole panels.
    rows: usize,
    /// Keys per block.
    keys: usize,
    /// Columns of the output tile: head_dim rounded up to whole value panels.
    columns: usize,
}

impl PrefillPlan {
    fn new(p: &Problem, kernels: &Kernels) -> Self {
        // Sized so that a block of keys and of values (60 KiB each at head_dim 128), the packed
        // queries and the output tile share an L2 cache of 512 KiB; a multiple of every KEY_ROWS.
        let keys = (16 * 1024 / p.head_dim).clamp(48, 192) / 24 * 24;
        let target_rows = (18 * 1024 / p.head_dim).clamp(48, 192);
        let positions = (target_rows / p.group()).clamp(1, p.q_len);
        Self {
            positions,
            tiles: p.q_len.div_ceil(positions),
            rows: (positions * p.group()).next_multiple_of(kernels.panel_rows),
            keys,
            columns: p.head_dim.next_multiple_of(kernels.value_panel),
        }
    }

    /// Floats of the parts of a task's scratch: queries, keys, values, scores, output, statistics.
    fn parts(&self, p: &Problem, panel_rows: usize) -> [usize; 6] {
        [
            self.rows * p.head_dim,
            self.keys * p.head_dim,
            self.keys * self.columns,
            self.keys * panel_rows,
            self.rows * self.columns,
            self.rows * STATISTICS,
        ]
        .map(|floats| floats.next_multiple_of(16))
    }
}

/// Arrays of one float per row: maximum, denominator, rescaling factor.
const STATISTICS: usize = 3;

pub fn supports(p: &Problem) -> Result<(), Reason> {
    require_fp32(p)?;
    if p.head_dim > MAX_FLASH_HEAD_DIM {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: MAX_FLASH_HEAD_DIM });
    }
    Ok(())
}

/// Prefill stores no scores: its scratch belongs to the threads and does not grow with length.
pub fn workspace_size(_: &Problem) -> usize {
    0
}

pub fn run(p: &Problem, kernels: &Kernels) {
    let plan = PrefillPlan::new(p, kernels);
    let scratch = plan.parts(p, kernels.panel_rows).iter().sum();
    let bytes = p.batch * p.heads * p.q_len * p.kv_len * 8;
    threads::run(p.batch * p.kv_heads * plan.tiles, scratch, bytes, |task, scratch| {
        // SAFETY: the table chose kernels that this CPU runs; `supports` accepted the problem.
        unsafe { (kernels.prefill)(p, &plan, task, scratch) }
    });
}

/// One task's place in the problem and its parts of the scratch.
struct Tile<'a> {
    p: &'a Problem,
    plan: &'a PrefillPlan,
    batch: usize,
    kv_head: usize,
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

impl Tile<'_> {
    fn head_of(&self, row: usize) -> usize {
        self.kv_head * self.p.group() + row % self.p.group()
    }

    fn position_of(&self, row: usize) -> usize {
        self.first_position + row / self.p.group()
    }

    /// Keys that a row of the tile sees, rows past the end like the last one.
    fn visible_keys(&self, row: usize) -> usize {
        self.p.visible_keys(self.position_of(row.min(self.rows - 1)))
    }
}

/// Attends one tile of query rows with one key/value head.
///
/// # Safety
/// As [`crate::cpu::isa::Task`].
#[inline(always)]
pub unsafe fn task<V: Vector, const KEY_ROWS: usize, const VALUE_ROWS: usize>(
    p: &Problem,
    plan: &PrefillPlan,
    task: usize,
    scratch: &mut [f32],
) {
    let panel_rows = panel_rows::<V>();
    debug_assert!(panel_rows.is_multiple_of(VALUE_ROWS) && plan.keys.is_multiple_of(KEY_ROWS));
    let mut part = scratch.as_mut_ptr();
    let [queries, keys, values, scores, output, statistics] =
        plan.parts(p, panel_rows).map(|floats| {
            let start = part;
            part = part.wrapping_add(floats);
            start
        });
    // Causal tiles at the end see the most keys; starting with them keeps the threads even.
    let pair = task % (p.batch * p.kv_heads);
    let first_position = (plan.tiles - 1 - task / (p.batch * p.kv_heads)) * plan.positions;
    let positions = plan.positions.min(p.q_len - first_position);
    let tile = Tile {
        p,
        plan,
        batch: pair / p.kv_heads,
        kv_head: pair % p.kv_heads,
        first_position,
        rows: positions * p.group(),
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
        pack_queries::<V>(&tile);
        for first_key in (0..end).step_by(plan.keys) {
            let count = plan.keys.min(end - first_key);
            pack_keys::<V, KEY_ROWS>(&tile, first_key, count);
            pack_values::<V>(&tile, first_key, count);
            for first_row in (0..tile.rows).step_by(panel_rows) {
                let last_row = first_row + panel_rows - 1;
                let seen = tile.visible_keys(last_row).saturating_sub(first_key).min(count);
                if seen == 0 {
                    continue;
                }
                let scored = score_panel::<V, KEY_ROWS>(&tile, first_row, seen);
                let seen_by_all = tile.visible_keys(first_row).saturating_sub(first_key);
                if seen_by_all < scored {
                    mask_panel::<V>(&tile, first_row, first_key, scored);
                }
                softmax_panel::<V>(&tile, first_row, scored);
                sum_panel::<V, VALUE_ROWS>(&tile, first_row, first_key, count);
            }
        }
        write_output::<V>(&tile);
    }
}

/// Packs scaled queries as `[panel][d][row]` and starts the statistics and the output at zero.
#[inline(always)]
unsafe fn pack_queries<V: Vector>(tile: &Tile) {
    let (p, plan, panel_rows) = (tile.p, tile.plan, panel_rows::<V>());
    // SAFETY: as the task's.
    unsafe {
        tile.queries.write_bytes(0, plan.rows * p.head_dim);
        for row in 0..tile.rows {
            let from = p.query.head(tile.batch, tile.position_of(row), tile.head_of(row));
            let panel = tile.queries.add(row / panel_rows * panel_rows * p.head_dim);
            let to = panel.add(row % panel_rows);
            for d in 0..p.head_dim {
                *to.add(d * panel_rows) = *from.add(d) * p.scale;
            }
        }
        for row in 0..plan.rows {
            *tile.max.add(row) = f32::MIN;
            *tile.sum.add(row) = 0.0;
        }
        tile.output.write_bytes(0, plan.rows * plan.columns);
    }
}

/// Copies a block of keys to consecutive rows. In the cache they lie a power of two apart as a
/// rule, where a handful of rows evict each other from every cache level.
#[inline(always)]
unsafe fn pack_keys<V: Vector, const KEY_ROWS: usize>(tile: &Tile, first_key: usize, count: usize) {
    let (p, head_dim) = (tile.p, tile.p.head_dim);
    // SAFETY: as the task's; `plan.keys` is a multiple of KEY_ROWS, so the padding fits.
    unsafe {
        for key in 0..count {
            let from = p.key.head(tile.batch, first_key + key, tile.kv_head);
            tile.keys.add(key * head_dim).copy_from_nonoverlapping(from, head_dim);
        }
        let padding = count.next_multiple_of(KEY_ROWS) - count;
        tile.keys.add(count * head_dim).write_bytes(0, padding * head_dim);
    }
}

/// Packs a block of values as `[value panel][key][column]`, columns past head_dim zero.
#[inline(always)]
unsafe fn pack_values<V: Vector>(tile: &Tile, first_key: usize, count: usize) {
    let (p, plan, width) = (tile.p, tile.plan, value_panel::<V>());
    // SAFETY: as the task's.
    unsafe {
        for key in 0..count {
            let from = p.value.head(tile.batch, first_key + key, tile.kv_head);
            for column in (0..plan.columns).step_by(V::LANES) {
                let panel = tile.values.add(column / width * width * plan.keys);
                let to = panel.add(key * width + column % width);
                let left = p.head_dim.saturating_sub(column);
                let value =
                    if left == 0 { V::splat(0.0) } else { load_up_to(from.add(column), left) };
                value.store(to);
            }
        }
    }
}

/// `scores[key][row] = key . query` for one panel; returns the keys scored, `seen` rounded up.
#[inline(always)]
unsafe fn score_panel<V: Vector, const KEY_ROWS: usize>(
    tile: &Tile,
    first_row: usize,
    seen: usize,
) -> usize {
    let (head_dim, panel_rows) = (tile.p.head_dim, panel_rows::<V>());
    let scored = seen.next_multiple_of(KEY_ROWS);
    for key in (0..scored).step_by(KEY_ROWS) {
        let left = Strided { at: tile.keys.wrapping_add(key * head_dim), row: head_dim, depth: 1 };
        let right = tile.queries.wrapping_add(first_row * head_dim);
        let to = tile.scores.wrapping_add(key * panel_rows);
        // SAFETY: as the task's.
        unsafe {
            tile_product::<V, KEY_ROWS, PANEL_VECTORS>(
                head_dim,
                left,
                right,
                to,
                panel_rows,
                Start::Zero,
            );
        }
    }
    scored
}

/// Sets the scores of keys that a row does not see to -infinity.
#[inline(always)]
unsafe fn mask_panel<V: Vector>(tile: &Tile, first_row: usize, first_key: usize, scored: usize) {
    let panel_rows = panel_rows::<V>();
    // SAFETY: as the task's.
    unsafe {
        for lane in (0..panel_rows).step_by(V::LANES) {
            let mut relative = [0.0f32; 64];
            for (i, count) in relative.iter_mut().enumerate().take(V::LANES) {
                // Relative to the block, where float32 counts exactly.
                let visible = tile.visible_keys(first_row + lane + i);
                *count = (visible as i64 - first_key as i64) as f32;
            }
            let visible = V::load(relative.as_ptr());
            for key in 0..scored {
                let at = tile.scores.add(key * panel_rows + lane);
                let rank = V::splat((key + 1) as f32);
                V::select_less(visible, rank, V::splat(f32::NEG_INFINITY), V::load(at)).store(at);
            }
        }
    }
}

/// Turns a panel's scores into weights and updates its rows' statistics.
#[inline(always)]
unsafe fn softmax_panel<V: Vector>(tile: &Tile, first_row: usize, scored: usize) {
    let panel_rows = panel_rows::<V>();
    // SAFETY: as the task's.
    unsafe {
        for lane in (0..panel_rows).step_by(V::LANES) {
            let row = first_row + lane;
            let column = tile.scores.add(lane);
            let old_max = V::load(tile.max.add(row));
            let mut max = old_max;
            for key in 0..scored {
                max = max.max(V::load(column.add(key * panel_rows)));
            }
            let factor = exp_nonpositive(old_max.sub(max));
            let mut sum = V::load(tile.sum.add(row)).mul(factor);
            for key in 0..scored {
                let at = column.add(key * panel_rows);
                let weight = exp_nonpositive(V::load(at).sub(max));
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
unsafe fn sum_panel<V: Vector, const VALUE_ROWS: usize>(
    tile: &Tile,
    first_row: usize,
    first_key: usize,
    count: usize,
) {
    let (plan, panel_rows, width) = (tile.plan, panel_rows::<V>(), value_panel::<V>());
    let seen = |row: usize| tile.visible_keys(row).saturating_sub(first_key).min(count);
    let rows = panel_rows.min((tile.rows - first_row).next_multiple_of(VALUE_ROWS));
    for column in (0..plan.columns).step_by(width) {
        let values = tile.values.wrapping_add(column * plan.keys);
        for block in (0..rows).step_by(VALUE_ROWS) {
            let row = first_row + block;
            let to = tile.output.wrapping_add(row * plan.columns + column);
            let weights = tile.scores.wrapping_add(block);
            let common = seen(row);
            // SAFETY: as the task's.
            unsafe {
                let left = Strided { at: weights, row: 1, depth: panel_rows };
                let start = Start::Scaled(tile.factor.add(row));
                tile_product::<V, VALUE_ROWS, VALUE_VECTORS>(
                    common,
                    left,
                    values,
                    to,
                    plan.columns,
                    start,
                );
                for r in 0..VALUE_ROWS {
                    let rest = seen(row + r) - common;
                    if rest > 0 {
                        let at = weights.wrapping_add(common * panel_rows + r);
                        let left = Strided { at, row: 1, depth: panel_rows };
                        let values = values.wrapping_add(common * width);
                        let to = to.wrapping_add(r * plan.columns);
                        tile_product::<V, 1, VALUE_VECTORS>(
                            rest,
                            left,
                            values,
                            to,
                            plan.columns,
                            Start::Kept,
                        );
                    }
                }
            }
        }
    }
}

/// Writes the tile's rows, normalised, and their LSE.
#[inline(always)]
unsafe fn write_output<V: Vector>(tile: &Tile) {
    let p = tile.p;
    // SAFETY: as the task's; the LSE pointer is null or inside its array.
    unsafe {
        for row in 0..tile.rows {
            let (position, head) = (tile.position_of(row), tile.head_of(row));
            let (max, sum) = (*tile.max.add(row), *tile.sum.add(row));
            let inverse = V::splat(if sum == 0.0 { 0.0 } else { 1.0 / sum });
            let from = tile.output.add(row * tile.plan.columns);
            let to = p.output.head(tile.batch, position, head);
            for d in (0..p.head_dim).step_by(V::LANES) {
                store_up_to(V::load(from.add(d)).mul(inverse), to.add(d), p.head_dim - d);
            }
            let lse = p.lse_at(tile.batch, head, position);
            if !lse.is_null() {
                *lse = if sum == 0.0 { f32::NEG_INFINITY } else { max + sum.ln() };
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

/// What a product is added to.
#[derive(Clone, Copy)]
enum Start {
    Zero,
    /// What the destination holds.
    Kept,
    /// What the destination holds, each row times its own factor.
    Scaled(*const f32),
}

/// `to = start + left . right`: `ROWS` rows by `VECTORS` vectors of columns held in registers,
/// over `depth` products. `right` is packed `[depth][columns]`; rows of `to` are `to_stride` apart.
#[inline(always)]
unsafe fn tile_product<V: Vector, const ROWS: usize, const VECTORS: usize>(
    depth: usize,
    left: Strided,
    right: *const f32,
    to: *mut f32,
    to_stride: usize,
    start: Start,
) {
    // SAFETY: the caller hands over pointers valid for the shapes above.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        if !matches!(start, Start::Zero) {
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    let old = V::load(to.add(r * to_stride + v * V::LANES));
                    sums[r][v] = match start {
                        Start::Scaled(factors) => old.mul(V::splat(*factors.add(r))),
                        _ => old,
                    };
                }
            }
        }
        for k in 0..depth {
            let mut columns = [V::splat(0.0); VECTORS];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = V::load(right.add((k * VECTORS + v) * V::LANES));
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
