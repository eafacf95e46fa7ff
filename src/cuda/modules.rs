//! The compiled kernels that build.rs embedded.

use std::ops::RangeInclusive;

/// One `kernels/<arch>/<name>.cu`, compiled.
pub struct Module {
    /// `<arch>/<name>`.
    pub name: &'static str,
    pub codes: &'static [Code],
    /// Compute capabilities that its kernels are for: the folder's manifest.
    pub devices: RangeInclusive<u32>,
    /// The fatbin.
    pub image: &'static [u8],
}

/// What nvcc compiled a module for.
#[allow(dead_code, reason = "which of them there are is for the manifests to say")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Machine code: runs on its own major version, from its minor version up.
    Machine(u32),
    /// Machine code of one device alone, such as sm_90a.
    Specific(u32),
    /// PTX: any device from this one on compiles it.
    Ptx(u32),
}

// `MODULES`, and `MISSING`: why there are none.
include!(concat!(env!("OUT_DIR"), "/cuda_modules.rs"));

impl Module {
    /// Where a module stands in `MODULES`.
    pub fn index(name: &str) -> Option<usize> {
        MODULES.iter().position(|module| module.name == name)
    }

    /// Whether a device of this compute capability can run the module.
    pub fn runs_on(&self, capability: u32) -> bool {
        self.compiled_for(capability).is_some()
    }

    /// The compute capability that the code was compiled for which a device would run: machine
    /// code if there is some, else the PTX.
    pub fn compiled_for(&self, capability: u32) -> Option<u32> {
        let machine = self.codes.iter().filter_map(|code| match *code {
            Code::Machine(arch) if arch / 10 == capability / 10 && arch <= capability => Some(arch),
            Code::Specific(arch) if arch == capability => Some(arch),
            _ => None,
        });
        let ptx = self.codes.iter().filter_map(|code| match *code {
            Code::Ptx(arch) if arch <= capability => Some(arch),
            _ => None,
        });
        machine.max().or(ptx.max())
    }
}

/// Whether all modules for a device run code compiled for 9.0 or later on it: what was compiled for
/// less knows no clusters and no dependent launches.
pub fn know_clusters(capability: u32) -> bool {
    MODULES
        .iter()
        .filter(|module| module.devices.contains(&capability))
        .all(|module| module.compiled_for(capability).is_some_and(|arch| arch >= 90))
}
