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
/// their keys and values in the L2 cache, beside what else passes through it. Causal blocks differ in
/// length, the longest of a section start first, and a small last section would run alone at the end:
/// so many pairs, in even sections. Otherwise few pairs do, and leave the cache to more of the rest.
pub fn prefill_section(p: &Problem, caps: &Caps) -> usize {
    const FEW: usize = 16;
    let pairs = p.batch * p.kv_heads;
    let keys = p.kv_len.saturating_mul(p.head_dim).saturating_mul(p.key.dtype.size());
    let most = (caps.l2_bytes as usize / 3 / keys.saturating_mul(2)).max(1);
    let most = if p.causal { most } else { most.min(FEW) };
    pairs.div_ceil(pairs.div_ceil(most))
}

/// How a decode kernel cuts a problem: mirrors `Layout` of `kernels/sm80/flash_decode.cuh`.
#[derive(Clone, Copy, Debug)]
pub struct DecodeShape {
    /// The largest head_dim it serves.
    pub head_dim: u32,
    /// Query rows of a block, a row being a position and one head of the group.
    pub rows: u32,
    /// Keys of a warp's tile.
    pub keys: u32,
    /// Bytes of shared memory: per warp, per block, and per block of a cluster.
    pub per_warp: u32,
    pub per_block: u32,
    pub per_peer: u32,
}

impl DecodeShape {
    /// 16-bit, on matrix instructions.
    pub const fn half(head_dim: u32, rows: u32) -> Self {
        Self::new(head_dim, rows, 16, 2, rows * (head_dim + 8) * 2)
    }

    /// Float32 arithmetic on keys of `size` bytes an element.
    pub const fn plain(head_dim: u32, rows: u32, size: u32) -> Self {
        let lanes = match (rows * head_dim / 64).next_power_of_two() {
            0..8 => 8,
            33.. => 32,
            lanes => lanes,
        };
        let groups = 32 / lanes;
        let keys = least(4096 / (head_dim * size), groups * 32 / rows);
        let keys = if keys > groups { keys } else { groups };
        Self::new(head_dim, rows, keys, size, rows * head_dim * 4)
    }

    const fn new(head_dim: u32, rows: u32, keys: u32, size: u32, query: u32) -> Self {
        // Two stages of keys and of values in padded rows; later the state of the rows.
        let ring = 2 * 2 * keys * (head_dim * size + 16);
        let state = 4 * (rows * (head_dim + 4) + 2 * rows);
        Self {
            head_dim,
            rows,
            keys,
            per_warp: if ring > state { ring } else { state },
            per_block: query + rows.next_multiple_of(4) * 4,
            per_peer: rows * head_dim * 4 + 16 * rows * 8,
        }
    }

    pub fn shared(&self, plan: &DecodePlan) -> u32 {
        let peer = if plan.cluster > 1 { self.per_peer } else { 0 };
        (plan.warps * self.per_warp + self.per_block + peer).max(plan.least_shared)
    }

    /// Most warps of a block that the device has shared memory for; 0 if the kernel does not fit.
    pub fn most_warps(&self, caps: &Caps) -> u32 {
        let fixed = self.per_block + self.per_peer;
        (caps.shared_per_block.saturating_sub(fixed) / self.per_warp).min(8)
    }

    /// What blocks are launched for: each tile of rows of each pair of a sequence and a KV head.
    pub fn units(&self, p: &Problem) -> usize {
        let tiles = (p.q_len * p.group()).div_ceil(self.rows as usize);
        p.batch.saturating_mul(p.kv_heads).saturating_mul(tiles)
    }

    /// Tiles of keys.
    pub fn tiles(&self, p: &Problem) -> usize {
        p.kv_len.div_ceil(self.keys as usize)
    }
}

const fn least(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

/// The blocks of a decode launch.
#[derive(Clone, Copy, Debug)]
pub struct DecodePlan {
    pub warps: u32,
    /// Blocks of a unit that merge through each other's shared memory.
    pub cluster: u32,
    /// Blocks of a unit, in whole clusters.
    pub splits: u32,
    /// A block asks for this much shared memory even if it needs less.
    pub least_shared: u32,
}

impl DecodePlan {
    /// States per row that a second kernel merges; 1 if the first one writes the output.
    pub fn parts(&self) -> u32 {
        self.splits / self.cluster
    }
}

/// The most parts per row, so that the workspace stays below 2% of the keys and values (of 8192
/// keys at least: never less room for a shorter cache than for a longer one).
pub fn decode_parts(p: &Problem) -> usize {
    let bytes = p.kv_len.max(8192).saturating_mul(p.key.dtype.size() * p.head_dim * 2);
    let part = p.q_len * p.group() * (p.head_dim + 2) * 4;
    (bytes / 55 / part).max(1)
}

/// Two kernels wherever there are fewer units than multiprocessors.
pub fn decode_plan(p: &Problem, shape: &DecodeShape, caps: &Caps) -> DecodePlan {
    let (units, tiles, sms) = (shape.units(p), shape.tiles(p), caps.sm_count as usize);
    let splits = (sms / units).min(tiles / 16).min(decode_parts(p)).max(1);
    let warps = (tiles.div_ceil(splits) as u32).clamp(1, if units > sms { 4 } else { 8 });
    DecodePlan {
        warps: warps.min(shape.most_warps(caps)),
        cluster: 1,
        splits: splits as u32,
        least_shared: 0,
    }
}
