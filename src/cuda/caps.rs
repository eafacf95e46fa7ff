//! What a device can do, lowered by the environment.

use crate::log;
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// The device's own compute capability, such as 90: decides which machine code it can load.
    pub capability: u32,
    /// The level that kernels and heuristics are chosen for: the capability, or less by
    /// `KFA_CUDA_ARCH`.
    pub arch: u32,
    pub sm_count: u32,
    /// Shared memory that one block may opt in to.
    pub shared_per_block: u32,
    pub l2_bytes: u32,
    /// Thread-block clusters and programmatic dependent launches may be used: the level permits
    /// them, and the code that the device runs was compiled for 9.0 or later.
    pub clusters: bool,
    /// Tensor maps can be made: the level permits TMA, and the driver knows it.
    pub tensor_maps: bool,
}

/// The level to choose kernels for on a device: `KFA_CUDA_ARCH` may only lower it.
pub fn arch(capability: u32) -> u32 {
    static ASKED: OnceLock<Option<u32>> = OnceLock::new();
    let asked = *ASKED.get_or_init(|| {
        let text = std::env::var("KFA_CUDA_ARCH").ok().filter(|text| !text.is_empty())?;
        let arch = text.parse().ok().filter(|arch| (80..=999).contains(arch));
        if arch.is_none() {
            log::warning(&format!(
                "KFA_CUDA_ARCH={text}: expected a compute capability such as 80 or 90; ignored"
            ));
        }
        arch
    });
    asked.map_or(capability, |asked| capability.min(asked))
}

/// Whether `KFA_CUDA_KERNELS`, comma-separated beginnings of table names, leaves an entry in; unset,
/// it leaves all. Lets tests force each entry.
pub fn names(entry: &str) -> bool {
    static NAMED: OnceLock<Option<String>> = OnceLock::new();
    let named = NAMED
        .get_or_init(|| std::env::var("KFA_CUDA_KERNELS").ok().filter(|text| !text.is_empty()));
    named.as_ref().is_none_or(|list| list.split(',').any(|start| entry.starts_with(start)))
}
