//! Compute capability 8.0 and later.

use super::{DecodePlan, DecodeShape, Heuristics, decode_parts};
use crate::cuda::caps::Caps;
use crate::problem::Problem;

pub struct Sm80;

impl Heuristics for Sm80 {}

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
