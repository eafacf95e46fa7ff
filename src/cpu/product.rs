//! The register-blocked product of two matrices in caches: all of prefill's arithmetic.

use crate::cpu::vector::Vector;

/// The left factor of a product: element `(row, k)` lies at `row * self.row + k * self.depth`.
#[derive(Clone, Copy)]
pub struct Strided {
    pub at: *const f32,
    pub row: usize,
    pub depth: usize,
}

/// The right factor of a product: rows of columns, `width` apart.
#[derive(Clone, Copy)]
pub struct Panel {
    pub at: *const f32,
    pub width: usize,
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub enum Start {
    Zero,
    /// What the destination holds, each row times its own factor.
    Scaled(*const f32),
}

/// `to = start + left . right`: `ROWS` rows by `VECTORS` vectors of columns held in registers,
/// over `depth` products. Rows of `to` are `to_stride` apart.
///
/// # Safety
/// As [`Vector`], for the shapes above.
#[inline(always)]
pub unsafe fn tile_product<V: Vector, const ROWS: usize, const VECTORS: usize>(
    depth: usize,
    left: Strided,
    right: Panel,
    to: *mut f32,
    to_stride: usize,
    start: Start,
) {
    // SAFETY: the caller hands over pointers valid for the shapes above.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        if let Start::Scaled(factors) = start {
            for r in 0..ROWS {
                let factor = V::splat(*factors.add(r));
                for v in 0..VECTORS {
                    sums[r][v] = V::load(to.add(r * to_stride + v * V::LANES)).mul(factor);
                }
            }
        }
        for k in 0..depth {
            let mut columns = [V::splat(0.0); VECTORS];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = V::load(right.at.add(k * right.width + v * V::LANES));
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
