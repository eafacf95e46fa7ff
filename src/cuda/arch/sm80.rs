//! Compute capability 8.0 and later.

use crate::cuda::caps::Caps;
use crate::problem::Problem;

/// How prefill kernels cut a problem: mirrors the entries of `kernels/sm80/flash_prefill_*.cu`.
#[derive(Clone, Copy, Debug)]
pub struct PrefillShape {
    /// Query rows of a block, a row being a position and one head of the group.
    pub rows: u32,
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl PrefillShape {
    /// 16-bit: queries, then `stages` of keys and values.
    pub const fn half(head_dim: u32, keys: u32, warps: u32, atoms: u32, stages: u32) -> Self {
        let rows = warps * atoms * 16;
        let shared = 2 * head_dim * (rows + 2 * stages * keys);
        Self { rows, threads: warps * 32, shared }
    }

    /// Float32 as two halves: queries, keys, values, a factor per query and three per key.
    pub const fn split(head_dim: u32, keys: u32, warps: u32, atoms: u32) -> Self {
        let rows = warps * atoms * 16;
        let shared = 2 * 2 * head_dim * (rows + 2 * keys) + 4 * rows + 12 * keys;
        Self { rows, threads: warps * 32, shared }
    }

    /// Float32 as it is, in padded rows: queries, keys or values in turn, weights.
    pub const fn plain(head_dim: u32, rows: u32, keys: u32) -> Self {
        let shared = 4 * ((rows + keys) * (head_dim + 4) + rows * (keys + 1));
        Self { rows, threads: 256, shared }
    }
}

/// Pairs of a sequence and a key/value head whose blocks run at the same time: as many as leave
/// their keys and values in the L2 cache, beside what else passes through it.
pub fn prefill_section(p: &Problem, caps: &Caps) -> usize {
    let pair = 2 * p.kv_len.saturating_mul(p.head_dim).saturating_mul(p.key.dtype.size());
    (caps.l2_bytes as usize * 2 / 5 / pair).max(1)
}

/// Which fp32 kernel serves head_dim 65 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitTile {
    Narrow,
    /// Twice the rows: each block of keys is split once for both halves.
    Wide,
    /// Fits where a block has less than 128 KB of shared memory.
    Small,
}

/// Wide tiles pay once there are enough of them to keep every multiprocessor busy, which causal
/// tiles, being of unequal length, need several of each for.
pub fn split_tile(p: &Problem, caps: &Caps, narrow: PrefillShape, wide: PrefillShape) -> SplitTile {
    let rows = p.q_len.saturating_mul(p.group());
    let tiles = rows.div_ceil(wide.rows as usize).saturating_mul(p.batch.saturating_mul(p.kv_heads));
    let enough = caps.sm_count as usize * if p.causal { 6 } else { 1 };
    if caps.shared_per_block < narrow.shared {
        SplitTile::Small
    } else if caps.shared_per_block >= wide.shared && tiles.saturating_mul(10) >= enough * 9 {
        SplitTile::Wide
    } else {
        SplitTile::Narrow
    }
}
