//! Compute capability 9.0: clusters and dependent launches. The numbers come from the sweeps in
//! docs/cuda-decode.md.

use crate::cuda::arch::sm80::{DecodePlan, DecodeShape, decode_parts};
use crate::cuda::caps::Caps;
use crate::problem::Problem;

/// Up to this many bytes of keys and values per block, one kernel with clusters is faster than two
/// kernels with more blocks: clusters fill a device unevenly.
const CLUSTER_BYTES: usize = 640 << 10;

pub fn decode_plan(p: &Problem, shape: &DecodeShape, caps: &Caps) -> DecodePlan {
    let (units, tiles, sms) = (shape.units(p), shape.tiles(p), caps.sm_count as usize);
    let most_warps = shape.most_warps(caps);
    let plan = |warps: usize, cluster: usize, splits: usize| DecodePlan {
        warps: (warps as u32).min(most_warps),
        cluster: cluster as u32,
        splits: splits as u32,
        least_shared: 0,
    };
    // One round of one block's warps, or enough units to fill the device.
    if tiles <= 8 && units < sms {
        return plan(tiles, 1, 1);
    }
    if units * 4 >= sms * 3 {
        let warps = if tiles <= 64 { tiles.min(4) } else { 8 };
        return spread(plan(warps, 1, 1), units, caps);
    }
    let cluster = largest_cluster(units, tiles, sms);
    let bytes = units * 2 * p.kv_len * p.head_dim * p.key.dtype.size();
    let most_parts = decode_parts(p);
    if bytes <= units * cluster * CLUSTER_BYTES || most_parts == 1 {
        let warps = cluster_warps(p, shape, cluster, tiles.div_ceil(cluster), caps);
        return plan(warps, cluster, cluster);
    }
    // All multiprocessors, and few bytes in flight on each: more only queue before the memory, and
    // unevenly. Clusters only as far as the workspace forbids that many parts.
    let room = sms / units;
    let mut cluster = 1;
    while room / cluster > most_parts.min(64) && cluster < 8 {
        cluster *= 2;
    }
    let splits = (room.min(tiles / 4) / cluster).clamp(1, most_parts) * cluster;
    let warps = if splits <= 4 && p.key.dtype.size() == 2 { 2 } else { 4 };
    let plan = plan(warps, cluster, splits);
    if cluster == 1 { spread(plan, units * splits, caps) } else { plan }
}

/// Warps of a block of a cluster. Blocks small enough for two on a multiprocessor let a successor's
/// clusters take the same places, one cluster per part of the device; larger ones drive them
/// elsewhere, which costs more than the warps bring. Four divide most numbers of tiles evenly, and
/// are enough wherever a tile is 4 KB of float32 or pairs leave a block much to read.
fn cluster_warps(
    p: &Problem,
    shape: &DecodeShape,
    cluster: usize,
    tiles: usize,
    caps: &Caps,
) -> usize {
    let half = (caps.shared_per_block / 2).saturating_sub(shape.per_block + shape.per_peer);
    let most = match half / shape.per_warp {
        0 | 1 => 8,
        warps => warps.min(8) as usize,
    };
    match tiles {
        ..=16 if most < 8 => tiles.min(4),
        _ if cluster == 2 || p.key.dtype.size() == 4 => tiles.min(4),
        _ => tiles.min(most),
    }
}

/// The largest cluster that leaves a block four tiles and the device room for all units at once: a
/// cluster lies within one part of the device, and the larger it is, the more of that part it wastes.
fn largest_cluster(units: usize, tiles: usize, sms: usize) -> usize {
    [(16, sms * 3 / 4), (8, sms * 9 / 10), (4, sms * 9 / 10), (2, sms)]
        .into_iter()
        .find(|(cluster, room)| units * cluster <= *room && tiles >= 4 * cluster)
        .map_or(1, |(cluster, _)| cluster)
}

/// Makes each block ask for so much shared memory that no multiprocessor takes more than its even
/// share of them; a dependent launch would else put blocks wherever there is room first.
fn spread(plan: DecodePlan, blocks: usize, caps: &Caps) -> DecodePlan {
    let share = blocks.div_ceil(caps.sm_count as usize);
    // A multiprocessor has 1 KB more than one block may ask for, and keeps 1 KB per block.
    let bytes = caps.shared_per_block as usize / (share + 1);
    let least_shared = if share <= 6 { bytes as u32 } else { 0 };
    DecodePlan { least_shared, ..plan }
}
