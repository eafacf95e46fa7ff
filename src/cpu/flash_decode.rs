//! Flash decode: one query row per sequence, split over keys, online softmax.
//!
//! A task owns some neighbouring key/value heads and a run of tokens of one sequence, and walks the
//! run in blocks: within a block it visits each of its heads, so memory is read nearly in the
//! token-major order in which the cache lies, and each key/value byte once for all query heads of
//! its group. Heads are shared out first, which costs nothing; only long contexts are also cut into
//! runs, whose states are combined in order. Runs depend on the problem alone, never on the number
//! of threads, so results are bit-identical always.

use crate::cpu::isa::Kernels;
use crate::cpu::reason::Reason;
use crate::cpu::rows::{self, CacheRows};
use crate::cpu::threads;
use crate::cpu::vector::{Element, Vector, with_element};
use crate::cpu::{MAX_FLASH_HEAD_DIM, log_sum_exp, log2_scale, require_dtypes};
use crate::problem::Problem;

/// A block's tokens are a multiple of this, so that its scores fill whole vectors everywhere.
const STEP: usize = 16;

/// How a decode problem is cut into tasks.
pub struct DecodePlan {
    /// Tokens per block: its keys and values of a head stay in the L1 cache.
    block: usize,
    /// Tokens per run.
    run: usize,
    /// Runs per sequence.
    splits: usize,
    /// Key/value heads per task.
    task_heads: usize,
    /// Tasks that share a run's heads.
    shares: usize,
    /// Floats of one head's running state: its sums, then maximum and denominator.
    state_stride: usize,
}

impl DecodePlan {
    fn new(p: &Problem, threads: usize) -> Self {
        // Few, long runs: their states are all the memory that decode needs beside the scratch.
        let run = (p.kv_len / 2).clamp(2048, 4096).next_multiple_of(STEP);
        let splits = p.kv_len.div_ceil(run);
        // A few tasks per thread even out a busy machine, but a token's keys that a task reads
        // should span a kilobyte, or the hardware prefetcher has nothing to run ahead on.
        let prefetchable = 256usize.div_ceil(p.head_dim).min(p.kv_heads);
        let wanted_shares = (4 * threads).div_ceil(p.batch * splits);
        let task_heads = (p.kv_heads / wanted_shares).max(prefetchable);
        Self {
            block: (2048 / p.head_dim).clamp(STEP, 8 * STEP) / STEP * STEP,
            run,
            splits,
            task_heads,
            shares: p.kv_heads.div_ceil(task_heads),
            state_stride: (p.head_dim + 2).next_multiple_of(4),
        }
    }

    /// The running state of a head of a run: in the workspace where runs are combined.
    fn split_state(&self, p: &Problem, batch: usize, split: usize, head: usize) -> *mut f32 {
        let index = (batch * self.splits + split) * p.heads + head;
        p.workspace.cast::<f32>().wrapping_add(index * self.state_stride)
    }
}

pub fn supports(p: &Problem) -> Result<(), Reason> {
    require_dtypes(p)?;
    if p.q_len != 1 {
        return Err(Reason::MoreThanOneRow { q_len: p.q_len });
    }
    if p.head_dim > MAX_FLASH_HEAD_DIM {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: MAX_FLASH_HEAD_DIM });
    }
    Ok(())
}

/// Bytes for the states of all runs; none when a single run writes the output itself.
pub fn workspace_size(p: &Problem) -> usize {
    let plan = DecodePlan::new(p, 1);
    if plan.splits == 1 { 0 } else { p.batch * plan.splits * p.heads * plan.state_stride * 4 }
}

pub fn run(p: &Problem, kernels: &Kernels) {
    let plan = DecodePlan::new(p, threads::count());
    let heads = plan.task_heads * p.group();
    let query_floats = heads * (p.head_dim + 16);
    let scratch = query_floats + 4 * plan.block + heads * plan.state_stride;
    let bytes = p.batch * p.kv_len * p.kv_heads * p.head_dim * 8;
    threads::run(p.batch * plan.splits * plan.shares, scratch, bytes, |task, scratch| {
        // SAFETY: the table chose kernels that this CPU runs; `supports` accepted the problem.
        unsafe { (kernels.decode)(p, &plan, task, scratch) }
    });
    if plan.splits > 1 {
        let bytes = p.batch * plan.splits * p.heads * plan.state_stride * 4;
        threads::run(p.batch * p.heads, plan.state_stride, bytes, |task, scratch| {
            // SAFETY: as above.
            unsafe { (kernels.decode_combine)(p, &plan, task, scratch) }
        });
    }
}

/// Attends one run of tokens with some key/value heads of one sequence.
///
/// # Safety
/// As [`crate::cpu::isa::Task`].
#[inline(always)]
pub unsafe fn task<V: Vector>(p: &Problem, plan: &DecodePlan, task: usize, scratch: &mut [f32]) {
    // SAFETY: the caller's; the element type is the keys' own.
    unsafe { with_element!(p.key.dtype, E => attend_run::<V, E>(p, plan, task, scratch)) }
}

#[inline(always)]
unsafe fn attend_run<V: Vector, E: Element>(
    p: &Problem,
    plan: &DecodePlan,
    task: usize,
    scratch: &mut [f32],
) {
    let (share, index) = (task % plan.shares, task / plan.shares);
    let (batch, split) = (index / plan.splits, index % plan.splits);
    let first_kv_head = share * plan.task_heads;
    let end_kv_head = p.kv_heads.min(first_kv_head + plan.task_heads);
    let group = p.group();
    let (first_head, end_head) = (first_kv_head * group, end_kv_head * group);
    let first = split * plan.run;
    let end = p.kv_len.min(first + plan.run);
    let query_stride = rows::query_stride::<V>(p.head_dim);
    let (query, rest) = scratch.split_at_mut((end_head - first_head) * query_stride);
    let (scores, state) = rest.split_at_mut(4 * plan.block);
    let (query, scores) = (query.as_mut_ptr(), scores.as_mut_ptr());
    let state = match plan.splits {
        1 => state.as_mut_ptr(),
        _ => plan.split_state(p, batch, split, first_head),
    };
    // Both are counted from the task's first head.
    let query_of = |head: usize| query.wrapping_add((head - first_head) * query_stride);
    let state_of = |head: usize| state.wrapping_add((head - first_head) * plan.state_stride);
    // SAFETY: `p` is valid for every head and token used here; scratch is as `run` sized it.
    unsafe {
        for head in first_head..end_head {
            with_element!(p.query.dtype, Q => {
                let from = p.query.head::<Q>(batch, 0, head);
                rows::scale_query::<V, Q>(from, log2_scale(p), p.head_dim, query_of(head));
            });
            let state = state_of(head);
            state.write_bytes(0, p.head_dim);
            *state.add(p.head_dim) = f32::MIN;
            *state.add(p.head_dim + 1) = 0.0;
        }
        let keys_of = |token: usize, kv_head: usize| CacheRows::<E> {
            first: p.key.head(batch, token, kv_head),
            stride: p.key.row_stride,
            count: plan.block.min(end - token),
            head_dim: p.head_dim,
        };
        for token in (first..end).step_by(plan.block) {
            for kv_head in first_kv_head..end_kv_head {
                let keys = keys_of(token, kv_head);
                let values = CacheRows {
                    first: p.value.head(batch, token, kv_head),
                    stride: p.value.row_stride,
                    ..keys
                };
                // What the next round of this loop reads, for it to find in the cache.
                let next_keys = if kv_head + 1 < end_kv_head {
                    keys_of(token, kv_head + 1)
                } else if token + plan.block < end {
                    keys_of(token + plan.block, first_kv_head)
                } else {
                    CacheRows::NONE
                };
                let block = Block { keys, values, next_keys };
                let mut head = kv_head * group;
                let end_head = head + group;
                while head < end_head {
                    let (query, state) = (query_of(head), state_of(head));
                    head += match end_head - head {
                        4.. => attend_block::<V, E, 4>(query, &block, scores, state, plan),
                        2 | 3 => attend_block::<V, E, 2>(query, &block, scores, state, plan),
                        _ => attend_block::<V, E, 1>(query, &block, scores, state, plan),
                    }
                }
            }
        }
        if plan.splits == 1 {
            for head in first_head..end_head {
                let state = state_of(head);
                let (max, sum) = (*state.add(p.head_dim), *state.add(p.head_dim + 1));
                finish::<V>(p, batch, head, state, max, sum);
            }
        }
    }
}

/// One block of tokens of a key/value head, and the keys of the block that comes next.
struct Block<E> {
    keys: CacheRows<E>,
    values: CacheRows<E>,
    next_keys: CacheRows<E>,
}

/// Folds one block of tokens into the running states of `R` heads; returns `R`.
#[inline(always)]
unsafe fn attend_block<V: Vector, E: Element, const R: usize>(
    query: *const f32,
    block: &Block<E>,
    scores: *mut f32,
    state: *mut f32,
    plan: &DecodePlan,
) -> usize {
    let Block { keys, values, next_keys } = *block;
    // SAFETY: the caller hands over R heads' queries and states and room for R blocks of scores.
    unsafe {
        rows::score::<V, E, R>(query, keys, values, scores, plan.block);
        let mut factors = [1.0; R];
        for (r, factor) in factors.iter_mut().enumerate() {
            let scores = scores.add(r * plan.block);
            for t in keys.count..plan.block {
                *scores.add(t) = f32::NEG_INFINITY;
            }
            let statistics = state.add(r * plan.state_stride + keys.head_dim);
            let old_max = *statistics;
            let max = old_max.max(rows::max::<V>(scores, plan.block));
            if max > old_max {
                *factor = rows::exp2_one::<V>(old_max - max);
                *statistics = max;
            }
            let sum = rows::exponentiate::<V>(scores, plan.block, max);
            *statistics.add(1) = *statistics.add(1) * *factor + sum;
        }
        let stride = plan.state_stride;
        rows::accumulate::<V, E, R>(scores, plan.block, values, next_keys, factors, state, stride);
    }
    R
}

/// Combines the runs of one head, in order, and writes its output row.
///
/// # Safety
/// As [`crate::cpu::isa::Task`]; all runs are done.
#[inline(always)]
pub unsafe fn combine<V: Vector>(p: &Problem, plan: &DecodePlan, task: usize, scratch: &mut [f32]) {
    let (batch, head) = (task / p.heads, task % p.heads);
    let split_state = |split| plan.split_state(p, batch, split, head);
    let total = scratch.as_mut_ptr();
    // SAFETY: every run of this head left its state in the workspace.
    unsafe {
        let mut max = f32::MIN;
        for split in 0..plan.splits {
            max = max.max(*split_state(split).add(p.head_dim));
        }
        total.write_bytes(0, p.head_dim);
        let mut sum = 0.0;
        for split in 0..plan.splits {
            let state = split_state(split);
            let weight = rows::exp2_one::<V>(*state.add(p.head_dim) - max);
            sum += weight * *state.add(p.head_dim + 1);
            let row = CacheRows { first: state, stride: 0, count: 1, head_dim: p.head_dim };
            rows::accumulate::<V, f32, 1>(&weight, 0, row, CacheRows::NONE, [1.0], total, 0);
        }
        finish::<V>(p, batch, head, total, max, sum);
    }
}

/// Writes one head's output row and LSE from its sums.
#[inline(always)]
unsafe fn finish<V: Vector>(
    p: &Problem,
    batch: usize,
    head: usize,
    sums: *const f32,
    max: f32,
    sum: f32,
) {
    // SAFETY: the row is inside the output, and the LSE pointer is null or inside its array.
    unsafe {
        with_element!(p.output.dtype, O => {
            let to = p.output.head::<O>(batch, 0, head);
            rows::scale_row::<V, O>(sums, 1.0 / sum, p.head_dim, to);
        });
        let lse = p.lse_at(batch, head, 0);
        if !lse.is_null() {
            *lse = log_sum_exp(max, sum);
        }
    }
}
