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

pub use crate::cpu::heuristics::DecodePlan;
use crate::cpu::level::{Proven, Task};
use crate::cpu::reason::Reason;
use crate::cpu::rows::{self, CacheRows};
use crate::cpu::scores::pass_of;
use crate::cpu::softmax::{self, Finisher};
use crate::cpu::threads::{self, Crew};
use crate::cpu::vector::{Element, MAX_LANES, Vector, with_element};
use crate::cpu::{require_dtypes, require_head_dims};
use crate::error;
use crate::problem::{Problem, Sequence, View};

impl DecodePlan {
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
    require_head_dims(p)
}

/// Bytes of the fewest runs, with which any number of threads can work.
pub fn min_workspace_size(p: &Problem) -> usize {
    DecodePlan::new(p, 1, false).workspace_size(p)
}

/// Bytes with which all threads find work.
pub fn workspace_size(p: &Problem) -> usize {
    DecodePlan::new(p, Crew::of(p).count(), !p.deterministic).workspace_size(p)
}

pub fn run(
    p: &Problem,
    task: Proven<Task<DecodePlan>>,
    combine: Proven<Task<DecodePlan>>,
) -> error::Result<()> {
    let mut plan = DecodePlan::new(p, Crew::of(p).count(), !p.deterministic);
    if plan.workspace_size(p) > p.workspace_size {
        plan = DecodePlan::new(p, Crew::of(p).count(), false);
    }
    let scratch = plan.scratch_floats(p).max(plan.state_stride);
    let bytes = p.batch * p.kv_len * p.kv_heads * (p.head_dim + p.value_head_dim);
    let bytes = bytes * p.key.dtype.size();
    let tasks = p.batch * plan.splits * plan.group_parts * plan.shares;
    threads::run_on_team(Crew::of(p), tasks, scratch, bytes, |index, scratch| {
        // SAFETY: `supports` accepted the problem; every index is handed out once.
        unsafe { task.function()(p, &plan, index, scratch) }
    })?;
    if plan.splits > 1 {
        let bytes = plan.workspace_size(p);
        threads::run_on_team(
            Crew::of(p),
            p.batch * p.heads,
            plan.state_stride,
            bytes,
            |index, scratch| {
                // SAFETY: as above.
                unsafe { combine.function()(p, &plan, index, scratch) }
            },
        )?;
    }
    Ok(())
}

/// Attends one run of tokens with some key/value heads of one sequence.
///
/// # Safety
/// As [`crate::cpu::level::Task`].
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
    // SAFETY: the problem is on the CPU and was checked in full.
    let s = unsafe { p.sequence(batch) };
    if s.q_len == 0 {
        return;
    }
    // SAFETY: as above; the sequence has a row.
    let visible = unsafe { p.visible.row(&s, 0) };
    let first = visible.start.max(split * plan.run);
    let end = visible.end.min((split + 1) * plan.run);
    let (scale, pass) = pass_of(p);
    let (key_dim, value_dim) = (p.head_dim, p.value_head_dim);
    let query_stride = rows::query_stride::<V>(key_dim);
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
                let from = p.query.head::<Q>(s.query_batch, s.query_row, head);
                rows::scale_query::<V, Q>(from, scale, key_dim, task_heads.query(head));
            });
            let state = task_heads.state(head);
            state.write_bytes(0, value_dim);
            *state.add(value_dim) = softmax::NO_MAX;
            *state.add(value_dim + 1) = 0.0;
        }
        let mut token = first;
        while token < end {
            // Blocks lie on a grid from key 0, wherever the visible keys begin.
            let count = (plan.block - token % plan.block).min(end - token);
            let steps = |tensor: Tensor, kv_head: usize, step: usize| CacheRows::<E> {
                first: tensor.view.head(s.cache_batch, s.cache_row + token + step, kv_head),
                stride: tensor.view.row_stride,
                count: plan.step.min(count - step),
                head_dim: tensor.head_dim,
            };
            // What comes `ahead` tokens later: of the same tensor or, past the block, of what is read
            // after it. The hardware prefetcher alone runs too short a way ahead of the arithmetic.
            let prefetch =
                |this: Tensor, then: Tensor, then_token: usize, step: usize, kv_head: usize| {
                    let step = step + plan.ahead;
                    let (tensor, first) = match step.checked_sub(count) {
                        None => (this, token + step),
                        Some(step) => (then, then_token + step),
                    };
                    for row in s.cache_row + first..s.cache_row + first + plan.step {
                        let Tensor { view, head_dim } = tensor;
                        rows::prefetch::<V>(&view, s.cache_batch, row, kv_head, head_dim);
                    }
                };
            let key = Tensor { view: p.key, head_dim: key_dim };
            let value = Tensor { view: p.value, head_dim: value_dim };
            for step in (0..count).step_by(plan.step) {
                for kv_head in kv_heads.clone() {
                    prefetch(key, value, token, step, kv_head);
                    let keys = steps(key, kv_head, step);
                    let head = first_head + (kv_head - first_kv_head) * group;
                    let scores = task_heads.scores(head).wrapping_add(step);
                    let query = task_heads.query(head);
                    rows::score::<V, E>(group, query, keys, scores, plan.block);
                }
            }
            for head in heads.clone() {
                if let Some(pass) = &pass {
                    let away = p.visible.position(&s, 0) - token as i64;
                    let slope = pass.slope(batch, head);
                    pass.row::<V>(task_heads.scores(head), count, slope, away);
                }
                weigh::<V>(&task_heads, head, count, value_dim);
            }
            for step in (0..count).step_by(plan.step) {
                for kv_head in kv_heads.clone() {
                    prefetch(value, key, token + count, step, kv_head);
                    let values = steps(value, kv_head, step);
                    let head = first_head + (kv_head - first_kv_head) * group;
                    let weights = task_heads.scores(head).wrapping_add(step);
                    let sums = task_heads.state(head);
                    let stride = plan.state_stride;
                    rows::accumulate::<V, E>(group, weights, plan.block, values, sums, stride);
                }
            }
            token += count;
        }
        if plan.splits == 1 {
            for head in heads {
                let state = task_heads.state(head);
                let (max, sum) = (*state.add(value_dim), *state.add(value_dim + 1));
                finish::<V>(p, &s, head, state, max, sum);
            }
        }
    }
}

/// Keys or values, and how long their heads are.
#[derive(Clone, Copy)]
struct Tensor {
    view: View,
    head_dim: usize,
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
/// As [`crate::cpu::level::Task`]; all runs are done.
#[inline(always)]
pub unsafe fn combine<V: Vector>(p: &Problem, plan: &DecodePlan, task: usize, scratch: &mut [f32]) {
    let (batch, head) = (task / p.heads, task % p.heads);
    let head_dim = p.value_head_dim;
    // SAFETY: the problem is on the CPU and was checked in full.
    let s = unsafe { p.sequence(batch) };
    if s.q_len == 0 {
        return;
    }
    let split_state = |split| plan.split_state(p, batch, split, head);
    let total = scratch.as_mut_ptr();
    // SAFETY: every run of this head left its state in the workspace.
    unsafe {
        let mut max = softmax::NO_MAX;
        for split in 0..plan.splits {
            max = max.max(*split_state(split).add(head_dim));
        }
        total.write_bytes(0, head_dim);
        let mut sum = 0.0;
        for split in 0..plan.splits {
            let state = split_state(split);
            let weight = rows::exp2_one::<V>(*state.add(head_dim) - max);
            sum += weight * *state.add(head_dim + 1);
            let row = CacheRows { first: state, stride: 0, count: 1, head_dim };
            rows::accumulate::<V, f32>(1, &weight, 0, row, total, 0);
        }
        finish::<V>(p, &s, head, total, max, sum);
    }
}

/// Writes one head's output row and LSE from its sums.
#[inline(always)]
unsafe fn finish<V: Vector>(
    p: &Problem,
    s: &Sequence,
    head: usize,
    sums: *const f32,
    max: f32,
    sum: f32,
) {
    // SAFETY: the row is inside the output, and the LSE pointer is null or inside its array.
    unsafe {
        let finish = Finisher::of(p).finish(head, max, sum);
        with_element!(p.output.dtype, O => {
            let to = p.output.head::<O>(s.query_batch, s.query_row, head);
            rows::scale_row::<V, O>(sums, finish.factor, p.value_head_dim, to);
        });
        let lse = p.lse_at(s.query_batch, head, s.query_row);
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
