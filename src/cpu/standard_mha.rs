//! Standard multi-head attention, the baseline: scores and their softmax into storage, then the
//! weighted sum of the values.
//!
//! Every head reads its own keys and values, as engines do; up to four query rows of a head share
//! each read. The first pass ends before the second begins, so all scores of the rows in flight
//! lie in the workspace at once: that memory is what flash attention saves.

use crate::choice::score_workspace;
use crate::cpu::heuristics::STANDARD_ROWS as ROWS;
use crate::cpu::level::{Proven, Task};
use crate::cpu::reason::Reason;
use crate::cpu::rows::{self, CacheRows};
use crate::cpu::scores::pass_of;
use crate::cpu::softmax::Finisher;
use crate::cpu::vector::{Element, MAX_LANES, Vector, with_element};
use crate::cpu::{require_dtypes, threads};
use crate::error;
use crate::problem::{Problem, Sequence, View};
use std::ops::Range;

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

    /// The rows of the cache that hold some keys or values of the block's head.
    unsafe fn cache<E: Element>(
        &self,
        view: &View,
        keys: Range<usize>,
        head_dim: usize,
    ) -> CacheRows<E> {
        let s = &self.sequence;
        // Where there are none there may be no memory either.
        let first = keys.start.min(s.kv_end.saturating_sub(1));
        CacheRows {
            // SAFETY: the keys are the sequence's.
            first: unsafe {
                view.head(s.cache_batch, s.cache_row + first, self.head / self.p.group())
            },
            stride: view.row_stride,
            count: keys.len(),
            head_dim,
        }
    }

    /// A row's place among the query's, the output's and the LSE's: its batch entry and row.
    fn place(&self, r: usize) -> (usize, usize) {
        (self.sequence.query_batch, self.sequence.query_row + self.row + r)
    }
}

pub fn supports(p: &Problem) -> Result<(), Reason> {
    require_dtypes(p)
}

/// Processes as many query rows at a time as the workspace holds scores of.
pub fn run(
    p: &Problem,
    scores: Proven<Task<StandardPlan>>,
    values: Proven<Task<StandardPlan>>,
) -> error::Result<()> {
    let rows_in_flight = p.q_len.min(p.workspace_size / score_workspace(p).min);
    let scratch = ROWS * p.head_dim.max(p.value_head_dim).next_multiple_of(MAX_LANES);
    for first_row in (0..p.q_len).step_by(rows_in_flight) {
        let rows = rows_in_flight.min(p.q_len - first_row);
        let plan = StandardPlan { first_row, rows, blocks: rows.div_ceil(ROWS) };
        let tasks = p.batch * p.heads * plan.blocks;
        let bytes = tasks * p.kv_len * p.head_dim * 4;
        for pass in [scores, values] {
            threads::run(tasks, scratch, bytes, |task, scratch| {
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
    let query = scratch.as_mut_ptr();
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
        if first < end {
            let keys = block.cache::<E>(&p.key, first..end, p.head_dim);
            rows::score::<V, E>(block.rows, query, keys, block.scores.add(first), p.kv_len);
        }
        for r in 0..block.rows {
            let visible = block.visible(r);
            let scores = block.scores.add(r * p.kv_len + visible.start);
            if let Some(pass) = &pass {
                let own = p.visible.position(&block.sequence, block.row + r);
                let slope = pass.slope(block.batch, block.head);
                pass.row::<V>(scores, visible.len(), slope, own - visible.start as i64);
            }
            let max = rows::max::<V>(scores, visible.len());
            let sum = rows::exponentiate::<V>(scores, visible.len(), max);
            let finish = finisher.finish(block.head, max, sum);
            rows::scale_row::<V, f32>(scores, finish.factor, visible.len(), scores);
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
    let sums = scratch.as_mut_ptr();
    let dim = p.value_head_dim;
    // SAFETY: as in the first pass.
    unsafe {
        let block = plan.block(p, task);
        sums.write_bytes(0, block.rows * dim);
        // The keys that every row sees are summed together, the others row by row: a key that a row
        // does not see must not touch it, whatever its value holds.
        let (mut first, mut end) = (0, if block.rows == ROWS { p.kv_len } else { 0 });
        for r in 0..block.rows {
            let visible = block.visible(r);
            (first, end) = (first.max(visible.start), end.min(visible.end));
        }
        let common = first..end.max(first);
        if !common.is_empty() {
            let values = block.cache::<E>(&p.value, common.clone(), dim);
            let weights = block.scores.add(common.start);
            rows::accumulate::<V, E>(ROWS, weights, p.kv_len, values, sums, dim);
        }
        for r in 0..block.rows {
            let row = sums.add(r * dim);
            let visible = block.visible(r);
            let before = visible.start..common.start.min(visible.end);
            let after = common.end.max(visible.start)..visible.end;
            for keys in [before, after].into_iter().filter(|keys| !keys.is_empty()) {
                let weights = block.scores.add(r * p.kv_len + keys.start);
                let values = block.cache::<E>(&p.value, keys, dim);
                rows::accumulate::<V, E>(1, weights, p.kv_len, values, row, dim);
            }
            with_element!(p.output.dtype, O => {
                let (batch, at) = block.place(r);
                let to = p.output.head::<O>(batch, at, block.head);
                rows::scale_row::<V, O>(row, 1.0, dim, to);
            });
        }
    }
}
