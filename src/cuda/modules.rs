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
        let binary = |arch: u32| {
            // Machine code runs on its own major version, from its minor version up; sm_90a is
            // for 9.0 alone.
            arch / 10 == capability / 10
                && (arch == capability || arch < capability && !self.name.starts_with("sm90/"))
        };
        self.archs.iter().copied().any(binary) || self.ptx.is_some_and(|ptx| ptx <= capability)
    }
}
