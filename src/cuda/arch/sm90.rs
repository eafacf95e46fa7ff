//! Compute capability 9.0: clusters and dependent launches. The numbers come from the sweeps in
//! docs/cuda-decode.md.

use super::{DecodePlan, DecodeShape, Heuristics, decode_parts};
use crate::cuda::caps::Caps;
use crate::problem::Problem;

/// Up to this many bytes of keys and values per block, one kernel with clusters is faster than two
/// kernels with more blocks: clusters fill a device unevenly.
const CLUSTER_BYTES: usize = 640 << 10;
/// Where the clusters of all units are less than a third of the device, from this many tiles on two
/// kernels are faster.
const FEW_CLUSTERS_TILES: usize = 64;
/// The largest cluster; twice that only where a second kernel is not to be had.
const MOST_CLUSTER: usize = 8;
/// Parts that the second kernel takes in one turn.
const PARTS: usize = 32;

pub struct Sm90;

impl Heuristics for Sm90 {
    fn decode_plan(&self, p: &Problem, shape: &DecodeShape, caps: &Caps) -> DecodePlan {
        decode_plan(p, shape, caps)
    }
}

fn decode_plan(p: &Problem, shape: &DecodeShape, caps: &Caps) -> DecodePlan {
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
    let most_parts = decode_parts(p);
    let most_cluster = if most_parts == 1 { 2 * MOST_CLUSTER } else { MOST_CLUSTER };
    let cluster = largest_cluster(units, tiles, sms, most_cluster);
    let one_kernel = if units * MOST_CLUSTER * 3 < sms {
        tiles < FEW_CLUSTERS_TILES
    } else {
        let bytes = units * 2 * p.kv_len * p.head_dim * p.key.dtype.size();
        bytes <= units * cluster * CLUSTER_BYTES
    };
    if one_kernel || most_parts == 1 {
        let blocks = units * cluster;
        let warps = cluster_warps(p, shape, cluster, blocks, tiles.div_ceil(cluster), caps);
        return plan(warps, cluster, cluster);
    }
    // All multiprocessors, and few bytes in flight on each: more only queue before the memory, and
    // unevenly.
    let (parts, cluster) = parts_and_cluster(sms / units, tiles, most_parts);
    let splits = parts * cluster;
    let warps = if units * splits * 3 <= sms * 2 && tiles >= 8 * splits {
        8
    } else if splits <= 4 && p.key.dtype.size() == 2 {
        2
    } else {
        4
    };
    let plan = plan(warps, cluster, splits);
    if cluster == 1 { spread(plan, units * splits, caps) } else { plan }
}

/// Parts of a unit that has room for so many blocks, and blocks of a part: clusters only where the
/// workspace forbids a quarter of that many parts. A longer cache never has fewer parts.
fn parts_and_cluster(room: usize, tiles: usize, most_parts: usize) -> (usize, usize) {
    // A part costs the second kernel something: beyond two turns it must be worth it.
    let room = room.min((tiles / 4).min(2 * PARTS).max(tiles / 32)).max(1);
    let parts = match room.min(most_parts) {
        many @ PARTS.. => many / PARTS * PARTS,
        few => few,
    };
    let cluster = match room / parts {
        ..4 => 1,
        4..8 => 4,
        8.. => MOST_CLUSTER,
    };
    (parts, cluster)
}

/// Warps of a block of a cluster. Blocks small enough for two on a multiprocessor let a successor's
/// clusters take the same places, one cluster per part of the device; larger ones drive them
/// elsewhere, which costs more than the warps bring unless most of the device is free anyway. Four
/// divide most numbers of tiles evenly, and are enough for float32 and where pairs leave a block much
/// to read.
fn cluster_warps(
    p: &Problem,
    shape: &DecodeShape,
    cluster: usize,
    blocks: usize,
    tiles: usize,
    caps: &Caps,
) -> usize {
    let half = (caps.shared_per_block / 2).saturating_sub(shape.per_block + shape.per_peer);
    let most = match half / shape.per_warp {
        _ if blocks * 5 <= caps.sm_count as usize * 2 => 8,
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
fn largest_cluster(units: usize, tiles: usize, sms: usize, most: usize) -> usize {
    [(16, sms * 3 / 4), (8, sms * 9 / 10), (4, sms * 9 / 10), (2, sms)]
        .into_iter()
        .filter(|(cluster, _)| *cluster <= most)
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

/// Units of prefill that are walked together. Long tiles fill the device four times over before the next
/// section's begin, and share keys and values in the L2 cache meanwhile; short ones are bound by memory,
/// and even out its load where sections change often. `packs` of heads of a sequence are a unit each.
pub fn prefill_section(p: &Problem, packs: usize, unit_tiles: usize, caps: &Caps) -> usize {
    if !p.causal {
        return 1;
    }
    let (units, sms) = (p.batch * packs, caps.sm_count as usize);
    let tiles = (sms * unit_tiles / 6).clamp(sms, 4 * sms);
    let bytes = p.kv_len * p.head_dim * 4 * p.kv_heads / packs;
    let cached = if tiles == 4 * sms { caps.l2_bytes as usize / bytes.max(1) } else { 0 };
    let most = tiles.div_ceil(unit_tiles).max(cached).clamp(1, units);
    units.div_ceil(units.div_ceil(most))
}
