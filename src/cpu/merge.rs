//! The public merge of partial results on the CPU: row by row of one head, each part weighted once.

use crate::cpu::vector::{Element, Vector, with_element};
#[cfg(test)]
mod tests;

use crate::cpu::level::Proven;
use crate::cpu::threads::{self, Crew};
use crate::error::Result;
use crate::merge::Merge;
use std::ops::Range;

/// What one task touches: enough that handing it out costs nothing beside it.
const TASK_BYTES: usize = 128 * 1024;

/// The weight of a part that saw no key, and may hold anything.
const IGNORED: f32 = -1.0;

/// [`task`], compiled for one instruction set.
pub type Task = unsafe fn(&Merge, rows: Range<usize>, weights: &mut [f32]);

/// Merges on the library's threads.
///
/// # Safety
/// The arrays are valid for the merge's shapes.
pub unsafe fn run(m: &Merge, task: Proven<Task>) -> Result<()> {
    let rows = m.batch * m.q_len * m.heads;
    let row_bytes = (m.most_parts + 1) * m.head_dim * m.outputs_layout.dtype.size();
    let rows_per_task = (TASK_BYTES / row_bytes).clamp(1, rows);
    let tasks = rows.div_ceil(rows_per_task);
    threads::run(
        Crew::ALL,
        tasks,
        m.most_parts,
        rows.saturating_mul(row_bytes),
        |index, weights| {
            let first = index * rows_per_task;
            let rows = first..(first + rows_per_task).min(rows);
            // SAFETY: the caller's; each row is in one task.
            unsafe { task.function()(m, rows, weights) }
        },
    )
}

/// Merges some rows, counted along `[batch, q_len, heads]`, with room for every part's weight.
///
/// # Safety
/// As [`Vector`]; the arrays are valid for the merge's shapes, and no other thread writes these rows.
#[inline(always)]
pub unsafe fn task<V: Vector>(m: &Merge, rows: Range<usize>, weights: &mut [f32]) {
    with_element!(m.outputs_layout.dtype, From => with_element!(m.output_layout.dtype, To => {
        for row in rows {
            // SAFETY: the caller's.
            unsafe { merge_row::<V, From, To>(m, row, weights) };
        }
    }));
}

/// The parts of one row: pairs of an array of outputs and of LSEs.
struct Parts<'a> {
    m: &'a Merge<'a>,
    at: [usize; 3],
    count: usize,
}

impl<'a> Parts<'a> {
    /// # Safety
    /// The arrays are valid for the merge's shapes, and the row is one of them.
    #[inline(always)]
    unsafe fn new(m: &'a Merge, batch: usize, row: usize, head: usize) -> Self {
        if m.part_offsets.is_null() {
            return Self { m, at: [batch, row, head], count: m.outputs.len() };
        }
        // SAFETY: the caller's.
        let [first, end] =
            unsafe { [0, 1].map(|end| *m.part_offsets.add(batch * m.q_len + row + end) as usize) };
        Self { m, at: [0, first, head], count: end - first }
    }

    /// # Safety
    /// As [`Self::new`]; `part < count`.
    #[inline(always)]
    unsafe fn output<E>(&self, part: usize) -> *const E {
        let [batch, row, head] = self.at;
        let (array, row) = self.array_and_row(part, row);
        let offset = self.m.outputs_layout.offset(batch, row, head);
        // SAFETY: the caller's.
        unsafe { self.m.outputs.get_unchecked(array).cast::<E>().add(offset) }
    }

    /// # Safety
    /// As [`Self::output`].
    #[inline(always)]
    unsafe fn lse(&self, part: usize) -> f32 {
        let [batch, row, head] = self.at;
        let (array, row) = self.array_and_row(part, row);
        let offset = self.m.lses_layout.offset(batch, row, head);
        // SAFETY: the caller's.
        unsafe { *self.m.lses.get_unchecked(array).add(offset) }
    }

    #[inline(always)]
    fn array_and_row(&self, part: usize, row: usize) -> (usize, usize) {
        if self.m.part_offsets.is_null() { (part, row) } else { (0, row + part) }
    }
}

#[inline(always)]
unsafe fn merge_row<V: Vector, From: Element, To: Element>(
    m: &Merge,
    index: usize,
    weights: &mut [f32],
) {
    let (batch, row, head) =
        (index / m.heads / m.q_len, index / m.heads % m.q_len, index % m.heads);
    // SAFETY: the caller's. A row's parts are all read, block by block, before the result is
    // written there, so it may be one of them.
    unsafe {
        let parts = Parts::new(m, batch, row, head);
        let weights = &mut weights[..parts.count];
        for (part, weight) in weights.iter_mut().enumerate() {
            *weight = parts.lse(part);
        }
        let lse = weigh(weights, m.base2);
        let output = m.output.cast::<To>().add(m.output_layout.offset(batch, row, head));
        if lse.is_nan() {
            fill::<V, To>(output, m.head_dim, f32::NAN);
        } else {
            let mut d = 0;
            while d < m.head_dim {
                d += if m.head_dim - d >= 4 * V::LANES {
                    block::<V, From, To, 4>(&parts, weights, output, d, m.head_dim)
                } else {
                    block::<V, From, To, 1>(&parts, weights, output, d, m.head_dim)
                };
            }
        }
        if !m.lse.is_null() {
            *m.lse.add(m.lse_layout.offset(batch, row, head)) = lse;
        }
    }
}

/// Turns LSEs into weights that sum to 1, and returns the LSE of all: -infinity where no part saw a
/// key, NaN where one has an LSE that no sum of exponentials has.
fn weigh(lses: &mut [f32], base2: bool) -> f32 {
    let (mut max, mut spoilt) = (f32::NEG_INFINITY, false);
    for lse in lses.iter() {
        max = max.max(*lse);
        spoilt |= lse.is_nan() || *lse == f32::INFINITY;
    }
    if spoilt {
        return f32::NAN;
    }
    let mut sum = 0.0;
    for lse in lses.iter_mut() {
        if *lse == f32::NEG_INFINITY {
            *lse = IGNORED;
            continue;
        }
        *lse = if base2 { (*lse - max).exp2() } else { (*lse - max).exp() };
        sum += *lse;
    }
    for weight in lses.iter_mut().filter(|weight| **weight != IGNORED) {
        *weight /= sum;
    }
    match () {
        _ if max == f32::NEG_INFINITY => max,
        _ if base2 => max + sum.log2(),
        _ => max + sum.ln(),
    }
}

/// Merges elements `d..` of a row, N vectors or what is left of one, and returns how many.
///
/// # Safety
/// As [`task`].
#[inline(always)]
unsafe fn block<V: Vector, From: Element, To: Element, const N: usize>(
    parts: &Parts,
    weights: &[f32],
    output: *mut To,
    d: usize,
    head_dim: usize,
) -> usize {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [V::splat(0.0); N];
        for (part, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != IGNORED) {
            let from = parts.output::<From>(part).add(d);
            for n in 0..N {
                let left = head_dim - d - n * V::LANES;
                let value: V = From::load_up_to(from.add(n * V::LANES), left);
                sums[n] = value.mul_add(V::splat(*weight), sums[n]);
            }
        }
        for n in 0..N {
            let left = head_dim - d - n * V::LANES;
            To::store_up_to(sums[n], output.add(d + n * V::LANES), left);
        }
    }
    N * V::LANES
}

/// # Safety
/// As [`task`].
#[inline(always)]
unsafe fn fill<V: Vector, To: Element>(output: *mut To, head_dim: usize, value: f32) {
    for d in (0..head_dim).step_by(V::LANES) {
        // SAFETY: the caller's.
        unsafe { To::store_up_to(V::splat(value), output.add(d), head_dim - d) };
    }
}
