//! How launches cut a problem: one file per architecture, and nowhere else. What a kernel's tile is
//! stands in the lists of `kernels/`; here is how many blocks of it a device gets, and in what order.

mod sm80;
pub mod sm90;

use crate::cuda::caps::Caps;
use crate::problem::Problem;

/// What an architecture decides; the defaults are those of compute capability 8.0.
pub trait Heuristics: Sync {
    fn prefill_section(&self, p: &Problem, caps: &Caps) -> usize {
        sm80::prefill_section(p, caps)
    }

    fn decode_plan(&self, p: &Problem, shape: &DecodeShape, caps: &Caps) -> DecodePlan {
        sm80::decode_plan(p, shape, caps)
    }
}

/// The heuristics of a device: the newest architecture's that it may use.
pub fn of(caps: &Caps) -> &'static dyn Heuristics {
    // Plans of 9.0 are made of clusters and dependent launches.
    if caps.clusters { &sm90::Sm90 } else { &sm80::Sm80 }
}

/// How a prefill kernel cuts a problem.
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

/// How a decode kernel cuts a problem.
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
