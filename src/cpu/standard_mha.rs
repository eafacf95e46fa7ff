//! Standard multi-head attention, the baseline: scores and their softmax into storage, then the
//! weighted sum of the values.
//!
//! Every head reads its own keys and values, as engines do; up to four query rows of a head share
//! each read. The first pass ends before the second begins, so all scores of the rows in flight
//! lie in the workspace at once: that memory is what flash attention saves.

use crate::choice::score_workspace;
use crate::cpu::isa::Kernels;
use crate::cpu::reason::Reason;
use crate::cpu::rows::{self, CacheRows};
use crate::cpu::softmax::{self, Log2Scale};
use crate::cpu::vector::{Element, Vector, with_element};
use crate::cpu::{require_dtypes, threads};
use crate::error;
use crate::problem::Problem;

/// Query rows of one task.
const ROWS: usize = 4;

/// Which query rows are in flight, and where their scores lie.
pub struct StandardPlan {
    first_row: usize,
    rows: usize,
    blocks: usize,
}

/// One task's share of a plan.
struct Block {
    batch: usize,
    head: usize,
    row: usize,
    rows: usize,
    /// `[rows, kv_len]` scores.
    scores: *mut f32,
}

impl StandardPlan {
    fn block(&self, p: &Problem, task: usize) -> Block {
        let (head, block) = (task / self.blocks, task % self.blocks);
        let offset = block * ROWS;
        Block {
            batch: head / p.heads,
            head: head % p.heads,
            row: self.first_row + offset,
            rows: ROWS.min(self.rows - offset),
            scores: p.workspace.cast::<f32>().wrapping_add((head * self.rows + offset) * p.kv_len),
        }
    }
}

pub fn supports(p: &Problem) -> Result<(), Reason> {
    require_dtypes(p)
}

/// Processes as many query rows at a time as the workspace holds scores of.
pub fn run(p: &Problem, kernels: &Kernels) -> error::Result<()> {
    let rows_in_flight = p.q_len.min(p.workspace_size / score_workspace(p).min);
    let scratch = ROWS * (p.head_dim + 16);
    for first_row in (0..p.q_len).step_by(rows_in_flight) {
        let rows = rows_in_flight.min(p.q_len - first_row);
        let plan = StandardPlan { first_row, rows, blocks: rows.div_ceil(ROWS) };
        let tasks = p.batch * p.heads * plan.blocks;
        let bytes = tasks * p.kv_len * p.head_dim * 4;
        for pass in [kernels.standard_scores, kernels.standard_values] {
            threads::run(tasks, scratch, bytes, |task, scratch| {
                // SAFETY: the table chose kernels that this CPU runs; `supports` accepted.
                unsafe { pass(p, &plan, task, scratch) }
            })?;
        }
    }
    Ok(())
}

/// First pass: scores of up to four query rows with every key they see, and their softmax.
///
/// # Safety
/// As [`crate::cpu::isa::Task`].
#[inline(always)]
pub unsafe fn scores<V: Vector>(
    p: &Problem,
    plan: &StandardPlan,
    task: usize,
    scratch: &mut [f32],
) {
    // SAFETY: the caller's; the element type is the keys' own.
    unsafe { with_element!(p.key.dtype, E => score_and_weigh::<V, E>(p, plan, task, scratch)) }
}

#[inline(always)]
unsafe fn score_and_weigh<V: Vector, E: Element>(
    p: &Problem,
    plan: &StandardPlan,
    task: usize,
    scratch: &mut [f32],
) {
    let block = plan.block(p, task);
    let query_stride = rows::query_stride::<V>(p.head_dim);
    let query = scratch.as_mut_ptr();
    let scale = Log2Scale::new(p.scale);
    // SAFETY: the block's rows and the keys they see are inside the problem; scratch holds ROWS
    // query rows and the workspace this block's scores.
    unsafe {
        for r in 0..block.rows {
            with_element!(p.query.dtype, Q => {
                let from = p.query.head::<Q>(block.batch, block.row + r, block.head);
                let to = query.add(r * query_stride);
                rows::scale_query::<V, Q>(from, scale, p.head_dim, to);
            });
        }
        let keys = CacheRows::<E> {
            first: p.key.head(block.batch, 0, block.head / p.group()),
            stride: p.key.row_stride,
            count: p.visible_keys(block.row + block.rows - 1),
            head_dim: p.head_dim,
        };
        rows::score::<V, E>(block.rows, query, keys, block.scores, p.kv_len);
        for r in 0..block.rows {
            let visible = p.visible_keys(block.row + r);
            let scores = block.scores.add(r * p.kv_len);
            let lse = p.lse_at(block.batch, block.head, block.row + r);
            let max = rows::max::<V>(scores, visible);
            let sum = rows::exponentiate::<V>(scores, visible, max);
            let finish = softmax::finish(max, sum);
            rows::scale_row::<V, f32>(scores, finish.factor, visible, scores);
            if !lse.is_null() {
                *lse = finish.lse;
            }
        }
    }
}

/// Second pass: the values weighted by the stored probabilities.
///
/// # Safety
/// As [`crate::cpu::isa::Task`]; the first pass is done.
#[inline(always)]
pub unsafe fn values<V: Vector>(
    p: &Problem,
    plan: &StandardPlan,
    task: usize,
    scratch: &mut [f32],
) {
    // SAFETY: the caller's; the element type is the values' own.
    unsafe { with_element!(p.value.dtype, E => sum_values::<V, E>(p, plan, task, scratch)) }
}

#[inline(always)]
unsafe fn sum_values<V: Vector, E: Element>(
    p: &Problem,
    plan: &StandardPlan,
    task: usize,
    scratch: &mut [f32],
) {
    let block = plan.block(p, task);
    let sums = scratch.as_mut_ptr();
    // SAFETY: as in the first pass.
    unsafe {
        sums.write_bytes(0, block.rows * p.head_dim);
        let all = CacheRows::<E> {
            first: p.value.head(block.batch, 0, block.head / p.group()),
            stride: p.value.row_stride,
            count: p.kv_len,
            head_dim: p.head_dim,
        };
        // The keys that every row sees are summed together, the last few row by row: a key that a
        // row does not see must not touch it, whatever its value holds.
        let common = if block.rows == ROWS { p.visible_keys(block.row) } else { 0 };
        if common > 0 {
            let values = all.slice(0, common);
            rows::accumulate::<V, E>(ROWS, block.scores, p.kv_len, values, sums, p.head_dim);
        }
        for r in 0..block.rows {
            let visible = p.visible_keys(block.row + r);
            let weights = block.scores.add(r * p.kv_len + common);
            let row = sums.add(r * p.head_dim);
            let values = all.slice(common, visible);
            rows::accumulate::<V, E>(1, weights, p.kv_len, values, row, p.head_dim);
            with_element!(p.output.dtype, O => {
                let to = p.output.head::<O>(block.batch, block.row + r, block.head);
                rows::scale_row::<V, O>(row, 1.0, p.head_dim, to);
            });
        }
    }
}
