//! Compute capability 8.0 and later.

use crate::cuda::caps::Caps;
use crate::problem::Problem;

/// How a prefill kernel cuts a problem: mirrors the entries of `kernels/sm80/flash_prefill_*.cu`.
#[derive(Clone, Copy, Debug)]
pub struct PrefillShape {
    /// The largest head_dim it serves.
    pub head_dim: u32,
    /// Query rows of a block, a row being a position and one head of the group.
    pub rows: u32,
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl PrefillShape {
    /// 16-bit: queries, then `stages` of keys and values.
    const fn half(head_dim: u32, keys: u32, warps: u32, atoms: u32, stages: u32) -> Self {
        let rows = warps * atoms * 16;
        let shared = 2 * head_dim * (rows + 2 * stages * keys);
        Self { head_dim, rows, threads: warps * 32, shared }
    }

    /// Float32 as two halves: queries, keys, values, a factor per query and three per key.
    const fn split(head_dim: u32, keys: u32, warps: u32, atoms: u32) -> Self {
        let rows = warps * atoms * 16;
        let shared = 2 * 2 * head_dim * (rows + 2 * keys) + 4 * rows + 12 * keys;
        Self { head_dim, rows, threads: warps * 32, shared }
    }

    /// Float32 as it is, in padded rows: queries, keys or values in turn, weights.
    const fn plain(head_dim: u32, rows: u32, keys: u32) -> Self {
        let shared = 4 * ((rows + keys) * (head_dim + 4) + rows * (keys + 1));
        Self { head_dim, rows, threads: 256, shared }
    }
}

// The measurements behind the choices are in docs/cuda-prefill.md.
pub const HALF_D64: PrefillShape = PrefillShape::half(64, 128, 4, 2, 1);
pub const HALF_D96: PrefillShape = PrefillShape::half(96, 64, 4, 2, 2);
pub const HALF_D128: PrefillShape = PrefillShape::half(128, 32, 4, 2, 2);
pub const HALF_D256: PrefillShape = PrefillShape::half(256, 64, 4, 1, 1);
pub const SPLIT_D64: PrefillShape = PrefillShape::split(64, 64, 4, 2);
pub const SPLIT_D128: PrefillShape = PrefillShape::split(128, 64, 8, 1);
/// For devices with less shared memory than the other needs: a tenth slower.
pub const SPLIT_D128_SMALL: PrefillShape = PrefillShape::split(128, 32, 4, 2);
pub const SPLIT_D256: PrefillShape = PrefillShape::split(256, 32, 8, 1);
pub const PLAIN_D64: PrefillShape = PrefillShape::plain(64, 64, 32);
pub const PLAIN_D128: PrefillShape = PrefillShape::plain(128, 64, 32);
pub const PLAIN_D256: PrefillShape = PrefillShape::plain(256, 32, 32);
pub const PLAIN_D512: PrefillShape = PrefillShape::plain(512, 16, 16);

/// Pairs of a sequence and a key/value head whose blocks run at the same time: as many as leave
/// their keys and values in the L2 cache, beside what else passes through it.
pub fn prefill_section(p: &Problem, caps: &Caps) -> usize {
    let keys = p.kv_len.saturating_mul(p.head_dim).saturating_mul(p.key.dtype.size());
    (caps.l2_bytes as usize * 2 / 5 / keys.saturating_mul(2)).max(1)
}
