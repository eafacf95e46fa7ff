//! Standard multi-head attention, the baseline: scores and their softmax into storage, then the
//! weighted sum of the values.
//!
//! Every head reads its own keys and values, as engines do; up to four query rows of a head share
//! each read. The first pass ends before the second begins, so all scores of the rows in flight
//! lie in the workspace at once: that memory is what flash attention saves.
//!
//! It serves every problem, the fused step apart: whatever lies in the cache, and masks. Only these cut
//! a row's keys into runs; a plain problem has one.

use crate::choice::score_workspace;
use crate::cpu::cache::{self, HeadCache};
use crate::cpu::heuristics::STANDARD_ROWS as ROWS;
use crate::cpu::level::{Proven, Task};
use crate::cpu::mask::{self, HIDDEN, RowMask};
use crate::cpu::rows;
use crate::cpu::scores::pass_of;
use crate::cpu::softmax::Finisher;
use crate::cpu::threads::{self, Crew};
use crate::cpu::vector::{MAX_LANES, Vector, with_element};
use crate::error;
use crate::problem::{Problem, Sequence};
use std::ops::Range;

/// Keys that a mask is looked at together for.
const PANEL: usize = 512;

/// Which query rows are in flight, and where their scores lie.
pub struct StandardPlan {
    first_row: usize,
    rows: usize,
    blocks: usize,
}

/// One task's share of a plan.
struct Block<'a> {
    p: &'a Problem,
    batch: usize,
    sequence: Sequence,
    head: usize,
    row: usize,
    rows: usize,
    /// `[rows, kv_len]` scores.
    scores: *mut f32,
}

impl StandardPlan {
    /// # Safety
    /// The problem is on the CPU and was checked in full.
    unsafe fn block<'a>(&self, p: &'a Problem, task: usize) -> Block<'a> {
        let (head, block) = (task / self.blocks, task % self.blocks);
        let batch = head / p.heads;
        // SAFETY: the caller's.
        let sequence = unsafe { p.sequence(batch) };
        let offset = block * ROWS;
        let row = self.first_row + offset;
        Block {
            p,
            batch,
            sequence,
            head: head % p.heads,
            row,
            rows: ROWS.min(self.rows - offset).min(sequence.q_len.saturating_sub(row)),
            scores: p.workspace.cast::<f32>().wrapping_add((head * self.rows + offset) * p.kv_len),
        }
    }
}

impl Block<'_> {
    /// The keys that a row of the block sees.
    unsafe fn visible(&self, r: usize) -> Range<usize> {
        // SAFETY: the caller keeps `r` below the block's rows.
        unsafe { self.p.visible.row(&self.sequence, self.row + r) }
    }

    /// What the mask says to a row of the block.
    unsafe fn mask(&self, r: usize) -> Option<RowMask> {
        // SAFETY: the caller keeps `r` below the block's rows.
        unsafe { RowMask::of(self.p, &self.sequence, self.batch, self.head, self.row + r) }
    }

    /// A row's place among the query's, the output's and the LSE's: its batch entry and row.
    fn place(&self, r: usize) -> (usize, usize) {
        (self.sequence.query_batch, self.sequence.query_row + self.row + r)
    }
}

/// The parts of a task's scratch, in either pass: queries or sums, what a mask adds, dequantised rows.
fn scratch_parts(p: &Problem) -> [usize; 3] {
    let width = p.head_dim.max(p.value_head_dim).next_multiple_of(MAX_LANES);
    let biases = if p.scores.mask.is_some() { ROWS * PANEL } else { 0 };
    [ROWS * width, biases, cache::scratch_floats(p)]
}

/// Processes as many query rows at a time as the workspace holds scores of.
pub fn run(
    p: &Problem,
    scores: Proven<Task<StandardPlan>>,
    values: Proven<Task<StandardPlan>>,
) -> error::Result<()> {
    let rows_in_flight = p.q_len.min(p.workspace_size / score_workspace(p).min);
    let scratch = scratch_parts(p).iter().sum();
    for first_row in (0..p.q_len).step_by(rows_in_flight) {
        let rows = rows_in_flight.min(p.q_len - first_row);
        let plan = StandardPlan { first_row, rows, blocks: rows.div_ceil(ROWS) };
        let tasks = p.batch * p.heads * plan.blocks;
        let bytes = tasks * p.kv_len * p.head_dim * 4;
        for pass in [scores, values] {
            threads::run(Crew::of(p), tasks, scratch, bytes, |task, scratch| {
                // SAFETY: `supports` accepted the problem; every task is handed out once.
                unsafe { pass.function()(p, &plan, task, scratch) }
            })?;
        }
    }
    Ok(())
}

/// First pass: scores of up to four query rows with every key they see, and their softmax.
///
/// # Safety
/// As [`crate::cpu::level::Task`].
#[inline(always)]
pub unsafe fn scores<V: Vector>(
    p: &Problem,
    plan: &StandardPlan,
    task: usize,
    scratch: &mut [f32],
) {
    let [queries, biases, _] = scratch_parts(p);
    let query = scratch.as_mut_ptr();
    let bias = query.wrapping_add(queries);
    let dequantised = bias.wrapping_add(biases);
    let (scale, pass) = pass_of(p);
    let finisher = Finisher::of(p);
    // SAFETY: the block's rows and the keys they see are inside the problem; scratch holds ROWS
    // query rows and the workspace this block's scores.
    unsafe {
        let block = plan.block(p, task);
        let query_stride = rows::query_stride::<V>(p.head_dim);
        let (mut first, mut end) = (usize::MAX, 0);
        for r in 0..block.rows {
            let visible = block.visible(r);
            if !visible.is_empty() {
                (first, end) = (first.min(visible.start), end.max(visible.end));
            }
            with_element!(p.query.dtype, Q => {
                let (batch, row) = block.place(r);
                let from = p.query.head::<Q>(batch, row, block.head);
                rows::scale_query::<V, Q>(from, scale, p.head_dim, query.add(r * query_stride));
            });
        }
        let masked = p.scores.mask.is_some();
        let keys = HeadCache::keys(p, &block.sequence, block.batch, block.head / p.group());
        let panel = if masked { PANEL } else { end.max(1) };
        for start in (first..end).step_by(panel) {
            let panel = start..end.min(start + panel);
            for r in 0..block.rows {
                if let Some(mask) = block.mask(r) {
                    let biases = std::slice::from_raw_parts_mut(bias.add(r * PANEL), panel.len());
                    biases.fill(HIDDEN);
                    let keys = clip(&block.visible(r), &panel);
                    mask.fill(keys.clone(), biases.as_mut_ptr().add(keys.start - start));
                }
            }
            // A key that no row of the block sees is not read.
            let shown = |key: usize| (0..block.rows).any(|r| *bias.add(r * PANEL + key) != HIDDEN);
            for shown in mask::runs(panel.len(), masked, shown) {
                let mut left = start + shown.start..start + shown.end;
                while !left.is_empty() {
                    let run = keys.run(left.clone(), dequantised);
                    let to = block.scores.add(left.start);
                    with_element!(run.dtype, E => {
                        rows::score::<V, E>(block.rows, query, run.rows::<E>(), to, p.kv_len);
                    });
                    left.start += run.count;
                }
            }
            for r in 0..block.rows {
                let keys = clip(&block.visible(r), &panel);
                let scores = block.scores.add(r * p.kv_len + keys.start);
                if let Some(pass) = &pass {
                    let own = p.visible.position(&block.sequence, block.row + r);
                    let slope = pass.slope(block.batch, block.head);
                    pass.row::<V>(scores, keys.len(), slope, own - keys.start as i64);
                }
                if masked {
                    mask::add::<V>(scores, bias.add(r * PANEL + keys.start - start), keys.len());
                }
            }
        }
        for r in 0..block.rows {
            let visible = block.visible(r);
            let scores = block.scores.add(r * p.kv_len + visible.start);
            let max = rows::max::<V>(scores, visible.len());
            // Hidden keys keep their score, by which the second pass knows them.
            let shown = |key: usize| *scores.add(key) != HIDDEN;
            let mut sum = 0.0;
            for keys in mask::runs(visible.len(), masked, shown) {
                sum += rows::exponentiate::<V>(scores.add(keys.start), keys.len(), max);
            }
            let finish = finisher.finish(block.head, max, sum);
            for keys in mask::runs(visible.len(), masked, shown) {
                let weights = scores.add(keys.start);
                rows::scale_row::<V, f32>(weights, finish.factor, keys.len(), weights);
            }
            let (batch, row) = block.place(r);
            let lse = p.lse_at(batch, block.head, row);
            if !lse.is_null() {
                *lse = finish.lse;
            }
        }
    }
}

/// Second pass: the values weighted by the stored probabilities.
///
/// # Safety
/// As [`crate::cpu::level::Task`]; the first pass is done.
#[inline(always)]
pub unsafe fn values<V: Vector>(
    p: &Problem,
    plan: &StandardPlan,
    task: usize,
    scratch: &mut [f32],
) {
    let [sums, biases, _] = scratch_parts(p);
    let dequantised = scratch.as_mut_ptr().wrapping_add(sums + biases);
    let sums = scratch.as_mut_ptr();
    let dim = p.value_head_dim;
    // SAFETY: as in the first pass.
    unsafe {
        let block = plan.block(p, task);
        sums.write_bytes(0, block.rows * dim);
        let masked = p.scores.mask.is_some();
        let values = HeadCache::values(p, &block.sequence, block.batch, block.head / p.group());
        // The keys that every row sees are summed together, the others row by row: a key that a row
        // does not see must not touch it, whatever its value holds.
        let whole = block.rows == ROWS && !masked;
        let (mut first, mut end) = (0, if whole { p.kv_len } else { 0 });
        for r in 0..block.rows {
            let visible = block.visible(r);
            (first, end) = (first.max(visible.start), end.min(visible.end));
        }
        let common = first..end.max(first);
        let weights = block.scores.wrapping_add(common.start);
        add::<V>(&values, ROWS, common.clone(), weights, p.kv_len, sums, dequantised);
        for r in 0..block.rows {
            let visible = block.visible(r);
            let before = visible.start..common.start.min(visible.end);
            let after = common.end.max(visible.start)..visible.end;
            for keys in [before, after].into_iter().filter(|keys| !keys.is_empty()) {
                let weights = block.scores.add(r * p.kv_len + keys.start);
                let shown = |key: usize| *weights.add(key) != HIDDEN;
                for run in mask::runs(keys.len(), masked, shown) {
                    let (weights, sums) = (weights.add(run.start), sums.add(r * dim));
                    let run = keys.start + run.start..keys.start + run.end;
                    add::<V>(&values, 1, run, weights, p.kv_len, sums, dequantised);
                }
            }
            with_element!(p.output.dtype, O => {
                let (batch, at) = block.place(r);
                let to = p.output.head::<O>(batch, at, block.head);
                rows::scale_row::<V, O>(sums.add(r * dim), 1.0, dim, to);
            });
        }
    }
}

/// Adds the values of some keys to some rows' sums, each times its weight.
#[inline(always)]
unsafe fn add<V: Vector>(
    values: &HeadCache,
    rows: usize,
    mut keys: Range<usize>,
    mut weights: *const f32,
    weight_stride: usize,
    sums: *mut f32,
    dequantised: *mut f32,
) {
    while !keys.is_empty() {
        // SAFETY: as the second pass.
        unsafe {
            let run = values.run(keys.clone(), dequantised);
            with_element!(run.dtype, E => {
                let (values, dim) = (run.rows::<E>(), values.dim());
                rows::accumulate::<V, E>(rows, weights, weight_stride, values, sums, dim);
            });
            keys.start += run.count;
            weights = weights.wrapping_add(run.count);
        }
    }
}

/// The part of a range that lies in another; an empty one lies in it as well.
fn clip(range: &Range<usize>, within: &Range<usize>) -> Range<usize> {
    let start = range.start.clamp(within.start, within.end);
    start..range.end.clamp(start, within.end)
}
