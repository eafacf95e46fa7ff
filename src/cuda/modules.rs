//! The compiled kernels that build.rs embedded.

/// One `kernels/<arch>/<name>.cu`, compiled.
pub struct Module {
    /// `<arch>/<name>`.
    pub name: &'static str,
    /// Compute capabilities that it holds machine code for.
    pub archs: &'static [u32],
    /// Compute capability of its PTX, which any later device can compile.
    pub ptx: Option<u32>,
    /// The fatbin.
    pub image: &'static [u8],
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
        let binary = |arch: &u32| {
            // Machine code runs on its own major version, from its minor version up; sm_90a is
            // for 9.0 alone.
            arch / 10 == capability / 10
                && (*arch == capability || *arch < capability && !self.name.starts_with("sm90/"))
        };
        let best = self.archs.iter().copied().filter(binary).max();
        best.or(self.ptx.filter(|ptx| *ptx <= capability))
    }
}

/// Whether all modules run code compiled for 9.0 or later on a device: what was compiled for less,
/// such as the PTX that a newer device compiles, knows no clusters and no dependent launches.
pub fn know_clusters(capability: u32) -> bool {
    MODULES.iter().all(|module| module.compiled_for(capability).is_some_and(|arch| arch >= 90))
}
