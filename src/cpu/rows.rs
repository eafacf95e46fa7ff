//! Products of a few query rows with a cache: scores of key rows and weighted sums of value rows.
//!
//! Each key or value row is read once for up to four query rows. Register blocks keep eight
//! independent accumulators, enough to cover the latency of fused multiply-adds.

use crate::cpu::softmax::{self, QueryScale};
use crate::cpu::vector::{Element, Vector, exp2_nonpositive};
use crate::dtype::Dtype;
use crate::problem::View;

/// A run of cache rows of one key/value head.
#[derive(Clone, Copy)]
pub struct CacheRows<E> {
    pub first: *const E,
    pub stride: usize,
    pub count: usize,
    pub head_dim: usize,
}

impl<E: Element> CacheRows<E> {
    #[inline(always)]
    unsafe fn row(&self, index: usize) -> *const E {
        // SAFETY: the caller keeps `index` below `count`.
        unsafe { self.first.add(index * self.stride) }
    }
}

/// Hints that `head_dim` floats of one head of one row are touched soon; any indices will do.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn prefetch<V: Vector>(
    view: &View,
    batch: usize,
    row: usize,
    head: usize,
    head_dim: usize,
) {
    /// Bytes per cache line.
    const LINE: usize = 64;
    // Rows past the end of a tensor with large strides may be past the end of all addresses.
    let offset = (batch.wrapping_mul(view.batch_stride))
        .wrapping_add(row.wrapping_mul(view.row_stride))
        .wrapping_add(head.wrapping_mul(view.head_stride));
    // Floats are of two sizes; looking one up among all types would cost more than the hint.
    let size = if view.dtype == Dtype::Fp32 { 4 } else { 2 };
    let first = view.data.wrapping_add(offset.wrapping_mul(size));
    for byte in (0..head_dim * size).step_by(LINE) {
        // SAFETY: the caller's.
        unsafe { V::prefetch(first.wrapping_add(byte).cast()) };
    }
}

/// Query rows are copied to scratch with this stride, so that whole vectors can be read.
#[inline(always)]
pub const fn query_stride<V: Vector>(head_dim: usize) -> usize {
    head_dim.next_multiple_of(V::LANES)
}

/// Copies one query row times `scale`'s factors, padded with zeros to `query_stride`.
///
/// # Safety
/// As [`Vector`]; `to` holds `query_stride` floats.
#[inline(always)]
pub unsafe fn scale_query<V: Vector, E: Element>(
    from: *const E,
    scale: QueryScale,
    head_dim: usize,
    to: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        for d in (0..head_dim).step_by(V::LANES) {
            let row: V = E::load_up_to(from.add(d), head_dim - d);
            scale.apply(row).store(to.add(d));
        }
    }
}

/// `scores[r * score_stride + t] = query row r . key row t` for all query rows and key rows.
///
/// # Safety
/// As [`Vector`]; `query` holds `rows` rows of `query_stride`, `scores` has room for `keys.count`.
#[inline(always)]
pub unsafe fn score<V: Vector, E: Element>(
    rows: usize,
    query: *const f32,
    keys: CacheRows<E>,
    scores: *mut f32,
    score_stride: usize,
) {
    let mut r = 0;
    while r < rows {
        let query = query.wrapping_add(r * query_stride::<V>(keys.head_dim));
        let scores = scores.wrapping_add(r * score_stride);
        // SAFETY: the caller's.
        unsafe {
            match rows_together(rows - r) {
                4 => score_blocks::<V, E, 4, 2>(query, keys, scores, score_stride),
                2 => score_blocks::<V, E, 2, 4>(query, keys, scores, score_stride),
                _ if keys.count >= 8 => {
                    score_blocks::<V, E, 1, 8>(query, keys, scores, score_stride);
                }
                _ => score_blocks::<V, E, 1, 4>(query, keys, scores, score_stride),
            }
        }
        r += rows_together(rows - r);
    }
}

/// How many of the rows that are left share a read.
#[inline(always)]
const fn rows_together(left: usize) -> usize {
    match left {
        4.. => 4,
        2 | 3 => 2,
        _ => 1,
    }
}

#[inline(always)]
unsafe fn score_blocks<V: Vector, E: Element, const R: usize, const T: usize>(
    query: *const f32,
    keys: CacheRows<E>,
    scores: *mut f32,
    score_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let whole = keys.head_dim / V::LANES * V::LANES;
        let stride = query_stride::<V>(keys.head_dim);
        for t0 in (0..keys.count).step_by(T) {
            // Past the end the last row is read again and its score dropped.
            let mut rows = [std::ptr::null(); T];
            for (t, row) in rows.iter_mut().enumerate() {
                *row = keys.row((t0 + t).min(keys.count - 1));
            }
            let mut sums = [[V::splat(0.0); R]; T];
            for d in (0..whole).step_by(V::LANES) {
                for t in 0..T {
                    let key: V = E::load(rows[t].add(d));
                    for r in 0..R {
                        sums[t][r] = key.mul_add(V::load(query.add(r * stride + d)), sums[t][r]);
                    }
                }
            }
            if whole < keys.head_dim {
                for t in 0..T {
                    let key: V = E::load_up_to(rows[t].add(whole), keys.head_dim - whole);
                    for r in 0..R {
                        sums[t][r] =
                            key.mul_add(V::load(query.add(r * stride + whole)), sums[t][r]);
                    }
                }
            }
            for t in 0..T.min(keys.count - t0) {
                for r in 0..R {
                    *scores.add(r * score_stride + t0 + t) = sums[t][r].reduce_add();
                }
            }
        }
    }
}

/// The largest of `count` scores, or [`softmax::NO_MAX`].
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn max<V: Vector>(scores: *const f32, count: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let whole = count / V::LANES * V::LANES;
        let mut lanes = V::splat(softmax::NO_MAX);
        for i in (0..whole).step_by(V::LANES) {
            lanes = lanes.max(V::load(scores.add(i)));
        }
        (whole..count).fold(lanes.reduce_max(), |best, i| best.max(*scores.add(i)))
    }
}

/// Replaces each score by 2^(score - max) and returns their sum.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn exponentiate<V: Vector>(scores: *mut f32, count: usize, max: f32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let shift = V::splat(max);
        let whole = count / V::LANES * V::LANES;
        let mut sums = V::splat(0.0);
        for i in (0..whole).step_by(V::LANES) {
            let weight = exp2_nonpositive(V::load(scores.add(i)).sub(shift));
            weight.store(scores.add(i));
            sums = sums.add(weight);
        }
        let mut sum = sums.reduce_add();
        if whole < count {
            let tail = V::load_partial(scores.add(whole), count - whole).sub(shift);
            exp2_nonpositive(tail).store_partial(scores.add(whole), count - whole);
            for i in whole..count {
                sum += *scores.add(i);
            }
        }
        sum
    }
}

/// 2^x for one x <= 0, with the kernels' own exponential.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn exp2_one<V: Vector>(x: f32) -> f32 {
    // SAFETY: the caller's.
    unsafe { exp2_nonpositive(V::splat(x)).reduce_max() }
}

/// `sums[r] += sum over t of weights[r * weight_stride + t] * value row t` for all rows.
///
/// # Safety
/// As [`Vector`]; `sums` holds `rows` rows of `sum_stride >= head_dim`.
#[inline(always)]
pub unsafe fn accumulate<V: Vector, E: Element>(
    rows: usize,
    weights: *const f32,
    weight_stride: usize,
    values: CacheRows<E>,
    sums: *mut f32,
    sum_stride: usize,
) {
    let mut r = 0;
    while r < rows {
        let weights = weights.wrapping_add(r * weight_stride);
        let sums = sums.wrapping_add(r * sum_stride);
        // SAFETY: the caller's.
        unsafe {
            match rows_together(rows - r) {
                4 => {
                    accumulate_wide::<V, E, 4, 2>(weights, weight_stride, values, sums, sum_stride)
                }
                2 => {
                    accumulate_wide::<V, E, 2, 4>(weights, weight_stride, values, sums, sum_stride)
                }
                _ => {
                    accumulate_wide::<V, E, 1, 8>(weights, weight_stride, values, sums, sum_stride)
                }
            }
        }
        r += rows_together(rows - r);
    }
}

#[inline(always)]
unsafe fn accumulate_wide<V: Vector, E: Element, const R: usize, const N: usize>(
    weights: *const f32,
    weight_stride: usize,
    values: CacheRows<E>,
    sums: *mut f32,
    sum_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut d = 0;
        while d + N * V::LANES <= values.head_dim {
            let mut block = [[V::splat(0.0); N]; R];
            for r in 0..R {
                for n in 0..N {
                    block[r][n] = V::load(sums.add(r * sum_stride + d + n * V::LANES));
                }
            }
            for t in 0..values.count {
                let row = values.row(t).add(d);
                for n in 0..N {
                    let value: V = E::load(row.add(n * V::LANES));
                    for r in 0..R {
                        let weight = V::splat(*weights.add(r * weight_stride + t));
                        block[r][n] = value.mul_add(weight, block[r][n]);
                    }
                }
            }
            for r in 0..R {
                for n in 0..N {
                    block[r][n].store(sums.add(r * sum_stride + d + n * V::LANES));
                }
            }
            d += N * V::LANES;
        }
        while d < values.head_dim {
            let lanes = values.head_dim - d;
            let mut column = [V::splat(0.0); R];
            for r in 0..R {
                column[r] = f32::load_up_to(sums.add(r * sum_stride + d), lanes);
            }
            for t in 0..values.count {
                let value: V = E::load_up_to(values.row(t).add(d), lanes);
                for r in 0..R {
                    column[r] =
                        value.mul_add(V::splat(*weights.add(r * weight_stride + t)), column[r]);
                }
            }
            for r in 0..R {
                f32::store_up_to(column[r], sums.add(r * sum_stride + d), lanes);
            }
            d += V::LANES;
        }
    }
}

/// `to = from * factor` over one row.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn scale_row<V: Vector, E: Element>(
    from: *const f32,
    factor: f32,
    head_dim: usize,
    to: *mut E,
) {
    // SAFETY: the caller's.
    unsafe {
        for d in (0..head_dim).step_by(V::LANES) {
            let row: V = f32::load_up_to(from.add(d), head_dim - d);
            E::store_up_to(row.mul(V::splat(factor)), to.add(d), head_dim - d);
        }
    }
}
