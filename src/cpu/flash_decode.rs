//! Flash decode: one query row per sequence, split over keys, online softmax.
//!
//! A task owns a run of tokens of one sequence and walks it in blocks; within a block it visits
//! every key/value head, so memory is read in the token-major order in which the cache lies, and
//! each key/value byte once for all query heads of its group. Runs depend only on the problem,
//! never on the number of threads, and are combined in order: results are bit-identical always.

use crate::cpu::isa::Kernels;
use crate::cpu::reason::Reason;
use crate::cpu::rows::{self, CacheRows};
use crate::cpu::threads;
use crate::cpu::vector::Vector;
use crate::cpu::{MAX_FLASH_HEAD_DIM, require_fp32};
use crate::problem::Problem;

/// Tokens per block: one block's keys and values of a head stay in the L1 cache, and its scores
/// fill whole vectors at every instruction set.
const BLOCK: usize = 16;

/// How a decode problem is cut into tasks.
pub struct DecodePlan {
    /// Tokens per task.
    run: usize,
    /// Tasks per sequence.
    splits: usize,
    /// Floats of one head's running state: its sums, then maximum and denominator.
    state_stride: usize,
}

impl DecodePlan {
    fn new(p: &Problem) -> Self {
        // 64 runs keep any CPU busy; at least 64 tokens amortise a task, and at most 512 keep its
        // share of the combine's work small.
        let run = p.kv_len.div_ceil(64).next_multiple_of(BLOCK).clamp(64, 512);
        Self {
            run,
            splits: p.kv_len.div_ceil(run),
            state_stride: (p.head_dim + 2).next_multiple_of(16),
        }
    }

    fn state_floats(&self, p: &Problem) -> usize {
        p.heads * self.state_stride
    }

    /// The running state of one head of one split: in the workspace where splits are combined.
    fn split_state(&self, p: &Problem, batch: usize, split: usize) -> *mut f32 {
        let index = batch * self.splits + split;
        p.workspace.cast::<f32>().wrapping_add(index * self.state_floats(p))
    }
}

pub fn supports(p: &Problem) -> Result<(), Reason> {
    require_fp32(p)?;
    if p.q_len != 1 {
        return Err(Reason::MoreThanOneRow { q_len: p.q_len });
    }
    if p.head_dim > MAX_FLASH_HEAD_DIM {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: MAX_FLASH_HEAD_DIM });
    }
    Ok(())
}

/// Bytes for the states of all splits; none when a single split writes the output itself.
pub fn workspace_size(p: &Problem) -> usize {
    let plan = DecodePlan::new(p);
    if plan.splits == 1 { 0 } else { p.batch * plan.splits * plan.state_floats(p) * 4 }
}

pub fn run(p: &Problem, kernels: &Kernels) {
    let plan = DecodePlan::new(p);
    let query_floats = p.heads * (p.head_dim + 16);
    let scratch = query_floats + 4 * BLOCK + plan.state_floats(p);
    let bytes = p.batch * p.kv_len * p.kv_heads * p.head_dim * 8;
    threads::run(p.batch * plan.splits, scratch, bytes, |task, scratch| {
        // SAFETY: the table chose kernels that this CPU runs; `supports` accepted the problem.
        unsafe { (kernels.decode)(p, &plan, task, scratch) }
    });
    if plan.splits > 1 {
        let bytes = p.batch * plan.splits * plan.state_floats(p) * 4;
        threads::run(p.batch * p.heads, plan.state_stride, bytes, |task, scratch| {
            // SAFETY: as above.
            unsafe { (kernels.decode_combine)(p, &plan, task, scratch) }
        });
    }
}

/// Attends one run of tokens with all heads of one sequence.
///
/// # Safety
/// As [`crate::cpu::isa::Task`].
#[inline(always)]
pub unsafe fn task<V: Vector>(p: &Problem, plan: &DecodePlan, task: usize, scratch: &mut [f32]) {
    let (batch, split) = (task / plan.splits, task % plan.splits);
    let first = split * plan.run;
    let end = p.kv_len.min(first + plan.run);
    let query_stride = rows::query_stride::<V>(p.head_dim);
    let (query, rest) = scratch.split_at_mut(p.heads * query_stride);
    let (scores, state) = rest.split_at_mut(4 * BLOCK);
    let (query, scores) = (query.as_mut_ptr(), scores.as_mut_ptr());
    let state = if plan.splits == 1 { state.as_mut_ptr() } else { plan.split_state(p, batch, split) };
    // SAFETY: `p` is valid for every head and token used here; scratch is as `run` sized it.
    unsafe {
        for head in 0..p.heads {
            let to = query.add(head * query_stride);
            rows::scale_query::<V>(p.query.head(batch, 0, head), p.scale, p.head_dim, to);
            let state = state.add(head * plan.state_stride);
            state.write_bytes(0, p.head_dim);
            *state.add(p.head_dim) = f32::MIN;
            *state.add(p.head_dim + 1) = 0.0;
        }
        let group = p.group();
        for token in (first..end).step_by(BLOCK) {
            for kv_head in 0..p.kv_heads {
                let keys = CacheRows {
                    first: p.key.head(batch, token, kv_head),
                    stride: p.key.row_stride,
                    count: BLOCK.min(end - token),
                    head_dim: p.head_dim,
                };
                let values = CacheRows {
                    first: p.value.head(batch, token, kv_head),
                    stride: p.value.row_stride,
                    ..keys
                };
                let mut head = kv_head * group;
                let end_head = head + group;
                while head < end_head {
                    let query = query.add(head * query_stride);
                    let state = state.add(head * plan.state_stride);
                    head += match end_head - head {
                        4.. => attend_block::<V, 4>(query, keys, values, scores, state, plan),
                        2 | 3 => attend_block::<V, 2>(query, keys, values, scores, state, plan),
                        _ => attend_block::<V, 1>(query, keys, values, scores, state, plan),
                    }
                }
            }
        }
        if plan.splits == 1 {
            for head in 0..p.heads {
                let state = state.add(head * plan.state_stride);
                let (max, sum) = (*state.add(p.head_dim), *state.add(p.head_dim + 1));
                finish::<V>(p, batch, head, state, max, sum);
            }
        }
    }
}

/// Folds one block of tokens into the running states of `R` heads; returns `R`.
#[inline(always)]
unsafe fn attend_block<V: Vector, const R: usize>(
    query: *const f32,
    keys: CacheRows,
    values: CacheRows,
    scores: *mut f32,
    state: *mut f32,
    plan: &DecodePlan,
) -> usize {
    // SAFETY: the caller hands over R heads' queries and states and room for R blocks of scores.
    unsafe {
        rows::score::<V, R>(query, keys, scores, BLOCK);
        let mut factors = [1.0; R];
        for (r, factor) in factors.iter_mut().enumerate() {
            let scores = scores.add(r * BLOCK);
            for t in keys.count..BLOCK {
                *scores.add(t) = f32::NEG_INFINITY;
            }
            let statistics = state.add(r * plan.state_stride + keys.head_dim);
            let old_max = *statistics;
            let max = old_max.max(rows::max::<V>(scores, BLOCK));
            if max > old_max {
                *factor = rows::exp_one::<V>(old_max - max);
                *statistics = max;
            }
            let sum = rows::exponentiate::<V>(scores, BLOCK, max);
            *statistics.add(1) = *statistics.add(1) * *factor + sum;
        }
        rows::accumulate::<V, R>(scores, BLOCK, values, factors, state, plan.state_stride);
    }
    R
}

/// Combines the splits of one head, in order, and writes its output row.
///
/// # Safety
/// As [`crate::cpu::isa::Task`]; all splits are done.
#[inline(always)]
pub unsafe fn combine<V: Vector>(p: &Problem, plan: &DecodePlan, task: usize, scratch: &mut [f32]) {
    let (batch, head) = (task / p.heads, task % p.heads);
    let split_state =
        |split| plan.split_state(p, batch, split).wrapping_add(head * plan.state_stride);
    let total = scratch.as_mut_ptr();
    // SAFETY: every split of this head left its state in the workspace.
    unsafe {
        let mut max = f32::MIN;
        for split in 0..plan.splits {
            max = max.max(*split_state(split).add(p.head_dim));
        }
        total.write_bytes(0, p.head_dim);
        let mut sum = 0.0;
        for split in 0..plan.splits {
            let state = split_state(split);
            let weight = rows::exp_one::<V>(*state.add(p.head_dim) - max);
            sum += weight * *state.add(p.head_dim + 1);
            let row = CacheRows { first: state, stride: 0, count: 1, head_dim: p.head_dim };
            rows::accumulate::<V, 1>(&weight, 0, row, [1.0], total, 0);
        }
        finish::<V>(p, batch, head, total, max, sum);
    }
}

/// Writes one head's output row and LSE from its sums.
#[inline(always)]
unsafe fn finish<V: Vector>(p: &Problem, batch: usize, head: usize, sums: *const f32, max: f32, sum: f32) {
    // SAFETY: the row is inside the output, and the LSE pointer is null or inside its array.
    unsafe {
        rows::scale_row::<V>(sums, 1.0 / sum, p.head_dim, p.output.head(batch, 0, head));
        let lse = p.lse_at(batch, head, 0);
        if !lse.is_null() {
            *lse = max + sum.ln();
        }
    }
}
