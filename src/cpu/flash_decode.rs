//! Flash decode: one query row per sequence, split over keys, online softmax.
//!
//! A task owns some neighbouring key/value heads and a run of tokens of one sequence, and walks the
//! run in blocks: first the keys of all its heads, a few tokens side by side, then the values. So
//! memory is read in the order in which the cache lies, token by token, and each key/value byte once
//! for all query heads of its group.
//!
//! Heads are shared out first, which costs nothing; long contexts are also cut into runs, whose
//! states are combined in order. Runs depend on the problem alone unless there are more threads than
//! key/value heads, and with `KFA_FLAG_DETERMINISTIC` even then.

use crate::cpu::isa::Kernels;
use crate::cpu::reason::Reason;
use crate::cpu::rows::{self, CacheRows};
use crate::cpu::softmax::{self, Log2Scale};
use crate::cpu::threads;
use crate::cpu::vector::{Element, MAX_LANES, Vector, with_element};
use crate::cpu::{MAX_FLASH_HEAD_DIM, require_dtypes};
use crate::error;
use crate::problem::{Problem, View};

/// The most query heads of a task, which bounds its scratch.
const MOST_TASK_HEADS: usize = 1024;

/// Tokens that are worth a run of their own where there are more threads than key/value heads.
const SHORTEST_RUN: usize = 512;

/// How a decode problem is cut into tasks.
pub struct DecodePlan {
    /// Tokens of a block, whose scores are turned into weights together.
    block: usize,
    /// Tokens read side by side: as many streams of memory, each in the order of its addresses.
    step: usize,
    /// How many tokens before their use rows are prefetched.
    ahead: usize,
    /// Tokens per run.
    run: usize,
    /// Runs per sequence.
    splits: usize,
    /// Key/value heads per task.
    task_heads: usize,
    /// Query heads of a group per task, and tasks that share a group: more than one only of very
    /// large groups, where a task has a single key/value head.
    task_group: usize,
    group_parts: usize,
    /// Tasks that share a run's heads.
    shares: usize,
    /// Floats of one head's running state: its sums, then maximum and denominator.
    state_stride: usize,
}

impl DecodePlan {
    /// `finer`: whether the number of threads may decide how long a run is.
    fn new(p: &Problem, threads: usize, finer: bool) -> Self {
        // Four streams suffice from head_dim 128 on; short rows are worth more tokens at a time.
        let block = (4096 / p.head_dim).clamp(32, 128) / 16 * 16;
        let step = (512 / p.head_dim).clamp(4, block);
        // A token's keys that a task reads should span 2 KiB, or the hardware prefetcher has nothing
        // to run ahead on.
        let token_bytes = p.head_dim * p.key.dtype.size();
        let most_shares = (p.kv_heads * token_bytes / 2048).max(1);
        // Few, long runs: their states are all the memory that decode needs beside the scratch.
        let fewest = p.kv_len.div_ceil((p.kv_len / 2).clamp(2048, 4096));
        let busy = threads.div_ceil(p.batch * p.kv_heads).min(p.kv_len / SHORTEST_RUN);
        let splits = if finer { fewest.max(busy) } else { fewest };
        let run = p.kv_len.div_ceil(splits).next_multiple_of(block);
        let splits = p.kv_len.div_ceil(run);
        // Two tasks per thread even out a busy machine; one each is worth shorter reads.
        let wanted = |tasks: usize| tasks.div_ceil(p.batch * splits);
        let group_parts = p.group().div_ceil(MOST_TASK_HEADS);
        let task_group = p.group().div_ceil(group_parts).next_multiple_of(4).min(p.group());
        let fewest_shares = p.kv_heads.div_ceil(MOST_TASK_HEADS / task_group.min(MOST_TASK_HEADS));
        let shares = wanted(2 * threads).min(most_shares).max(wanted(threads)).max(fewest_shares);
        let task_heads = p.kv_heads.div_ceil(shares.min(p.kv_heads));
        // Far enough to outlast memory's latency, near enough for the L2 cache to keep it.
        let ahead = (48 * 1024 / (task_heads * token_bytes)).max(2 * step).min(block);
        Self {
            block,
            step,
            ahead,
            run,
            splits,
            task_heads,
            task_group,
            group_parts: p.group().div_ceil(task_group),
            shares: p.kv_heads.div_ceil(task_heads),
            state_stride: (p.head_dim + 2).next_multiple_of(4),
        }
    }

    /// Bytes for the states of all runs; none when a single run writes the output itself.
    fn workspace_size(&self, p: &Problem) -> usize {
        if self.splits == 1 { 0 } else { p.batch * self.splits * p.heads * self.state_stride * 4 }
    }

    /// Floats of a task's scratch.
    fn scratch_floats(&self, p: &Problem) -> usize {
        let state = if self.splits == 1 { self.state_stride } else { 0 };
        self.task_heads * self.task_group * (p.head_dim + MAX_LANES + self.block + state)
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
        return Err(Reason::QLen { q_len: p.q_len, min: 1, max: 1 });
    }
    if p.head_dim > MAX_FLASH_HEAD_DIM {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: MAX_FLASH_HEAD_DIM });
    }
    Ok(())
}

/// Bytes of the fewest runs, with which any number of threads can work.
pub fn min_workspace_size(p: &Problem) -> usize {
    DecodePlan::new(p, 1, false).workspace_size(p)
}

/// Bytes with which all threads find work.
pub fn workspace_size(p: &Problem) -> usize {
    DecodePlan::new(p, threads::count(), !p.deterministic).workspace_size(p)
}

pub fn run(p: &Problem, kernels: &Kernels) -> error::Result<()> {
    let mut plan = DecodePlan::new(p, threads::count(), !p.deterministic);
    if plan.workspace_size(p) > p.workspace_size {
        plan = DecodePlan::new(p, threads::count(), false);
    }
    let scratch = plan.scratch_floats(p);
    let bytes = p.batch * p.kv_len * p.kv_heads * p.head_dim * 2 * p.key.dtype.size();
    let tasks = p.batch * plan.splits * plan.group_parts * plan.shares;
    threads::run_on_team(tasks, scratch, bytes, |task, scratch| {
        // SAFETY: the table chose kernels that this CPU runs; `supports` accepted the problem.
        unsafe { (kernels.decode)(p, &plan, task, scratch) }
    })?;
    if plan.splits > 1 {
        let bytes = plan.workspace_size(p);
        threads::run_on_team(p.batch * p.heads, plan.state_stride, bytes, |task, scratch| {
            // SAFETY: as above.
            unsafe { (kernels.decode_combine)(p, &plan, task, scratch) }
        })?;
    }
    Ok(())
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
    let (part, index) = (index % plan.group_parts, index / plan.group_parts);
    let (batch, split) = (index / plan.splits, index % plan.splits);
    let first_kv_head = share * plan.task_heads;
    let kv_heads = first_kv_head..p.kv_heads.min(first_kv_head + plan.task_heads);
    // Parts of a group are those of a single key/value head, so heads are consecutive in any case.
    let in_group = part * plan.task_group;
    let group = plan.task_group.min(p.group() - in_group);
    let first_head = kv_heads.start * p.group() + in_group;
    let heads = first_head..first_head + kv_heads.len() * group;
    let first = split * plan.run;
    let end = p.kv_len.min(first + plan.run);
    let scale = Log2Scale::new(p.scale);
    let query_stride = rows::query_stride::<V>(p.head_dim);
    let (query, rest) = scratch.split_at_mut(heads.len() * query_stride);
    let (scores, state) = rest.split_at_mut(heads.len() * plan.block);
    let state = match plan.splits {
        1 => state.as_mut_ptr(),
        _ => plan.split_state(p, batch, split, heads.start),
    };
    let task_heads = Heads {
        first: heads.start,
        query: query.as_mut_ptr(),
        query_stride,
        scores: scores.as_mut_ptr(),
        score_stride: plan.block,
        state,
        state_stride: plan.state_stride,
    };
    // SAFETY: `p` is valid for every head and token used here; scratch is as `run` sized it.
    unsafe {
        for head in heads.clone() {
            with_element!(p.query.dtype, Q => {
                let from = p.query.head::<Q>(batch, 0, head);
                rows::scale_query::<V, Q>(from, scale, p.head_dim, task_heads.query(head));
            });
            let state = task_heads.state(head);
            state.write_bytes(0, p.head_dim);
            *state.add(p.head_dim) = softmax::NO_MAX;
            *state.add(p.head_dim + 1) = 0.0;
        }
        for token in (first..end).step_by(plan.block) {
            let count = plan.block.min(end - token);
            let steps = |view: View, kv_head: usize, step: usize| CacheRows::<E> {
                first: view.head(batch, token + step, kv_head),
                stride: view.row_stride,
                count: plan.step.min(count - step),
                head_dim: p.head_dim,
            };
            // What comes `ahead` tokens later: of the same tensor or, past the block, of what is read
            // after it. The hardware prefetcher alone runs too short a way ahead of the arithmetic.
            let prefetch =
                |this: View, then: View, then_token: usize, step: usize, kv_head: usize| {
                    let step = step + plan.ahead;
                    let (view, first) = match step.checked_sub(count) {
                        None => (this, token + step),
                        Some(step) => (then, then_token + step),
                    };
                    for row in first..first + plan.step {
                        rows::prefetch::<V>(&view, batch, row, kv_head, p.head_dim);
                    }
                };
            for step in (0..count).step_by(plan.step) {
                for kv_head in kv_heads.clone() {
                    prefetch(p.key, p.value, token, step, kv_head);
                    let keys = steps(p.key, kv_head, step);
                    let head = first_head + (kv_head - first_kv_head) * group;
                    let scores = task_heads.scores(head).wrapping_add(step);
                    let query = task_heads.query(head);
                    rows::score::<V, E>(group, query, keys, scores, plan.block);
                }
            }
            for head in heads.clone() {
                weigh::<V>(&task_heads, head, count, p.head_dim);
            }
            for step in (0..count).step_by(plan.step) {
                for kv_head in kv_heads.clone() {
                    prefetch(p.value, p.key, token + plan.block, step, kv_head);
                    let values = steps(p.value, kv_head, step);
                    let head = first_head + (kv_head - first_kv_head) * group;
                    let weights = task_heads.scores(head).wrapping_add(step);
                    let sums = task_heads.state(head);
                    let stride = plan.state_stride;
                    rows::accumulate::<V, E>(group, weights, plan.block, values, sums, stride);
                }
            }
        }
        if plan.splits == 1 {
            for head in heads {
                let state = task_heads.state(head);
                let (max, sum) = (*state.add(p.head_dim), *state.add(p.head_dim + 1));
                finish::<V>(p, batch, head, state, max, sum);
            }
        }
    }
}

/// What a task keeps of each of its heads.
struct Heads {
    first: usize,
    /// Scaled queries.
    query: *mut f32,
    query_stride: usize,
    /// A block's scores, then weights.
    scores: *mut f32,
    score_stride: usize,
    /// Running states.
    state: *mut f32,
    state_stride: usize,
}

impl Heads {
    fn query(&self, head: usize) -> *mut f32 {
        self.query.wrapping_add((head - self.first) * self.query_stride)
    }

    fn scores(&self, head: usize) -> *mut f32 {
        self.scores.wrapping_add((head - self.first) * self.score_stride)
    }

    fn state(&self, head: usize) -> *mut f32 {
        self.state.wrapping_add((head - self.first) * self.state_stride)
    }
}

/// Turns a block's scores of one head into weights, and rescales its state to their maximum.
#[inline(always)]
unsafe fn weigh<V: Vector>(heads: &Heads, head: usize, count: usize, head_dim: usize) {
    let (scores, state) = (heads.scores(head), heads.state(head));
    // SAFETY: the task's.
    unsafe {
        let (old_max, sum) = (state.add(head_dim), state.add(head_dim + 1));
        let max = (*old_max).max(rows::max::<V>(scores, count));
        if max > *old_max {
            let factor = rows::exp2_one::<V>(*old_max - max);
            rows::scale_row::<V, f32>(state, factor, head_dim, state);
            *sum *= factor;
            *old_max = max;
        }
        *sum += rows::exponentiate::<V>(scores, count, max);
    }
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
        let mut max = softmax::NO_MAX;
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
            rows::accumulate::<V, f32>(1, &weight, 0, row, total, 0);
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
    let finish = softmax::finish(max, sum);
    // SAFETY: the row is inside the output, and the LSE pointer is null or inside its array.
    unsafe {
        with_element!(p.output.dtype, O => {
            let to = p.output.head::<O>(batch, 0, head);
            rows::scale_row::<V, O>(sums, finish.factor, p.head_dim, to);
        });
        let lse = p.lse_at(batch, head, 0);
        if !lse.is_null() {
            *lse = finish.lse;
        }
    }
}

/// Floats of the scratch of a task on so many threads.
#[cfg(test)]
pub fn scratch_floats(p: &Problem, threads: usize) -> usize {
    DecodePlan::new(p, threads, false).scratch_floats(p)
}
