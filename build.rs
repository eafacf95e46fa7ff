//! Gives the shared library its soname, compiles the CUDA kernels where nvcc is found, and on
//! request generates the C header.

use std::env;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        let major = env::var("CARGO_PKG_VERSION_MAJOR").unwrap();
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libkuiper_flash_attention.so.{major}");
    }
    println!("cargo:rustc-env=KFA_BUILD_TARGET={}", env::var("TARGET").unwrap());
    println!("cargo:rustc-env=KFA_BUILD_PROFILE={}", env::var("PROFILE").unwrap());
    #[cfg(feature = "generate-header")]
    generate_header();
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        cuda::build();
    }
}

/// Writes `$OUT_DIR/kfa.h`; `tests/header.rs` compares it with the checked-in header.
#[cfg(feature = "generate-header")]
fn generate_header() {
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/abi.rs");
    println!("cargo:rerun-if-changed=src/capi");
    let root = env::var("CARGO_MANIFEST_DIR").unwrap();
    let out = Path::new(&env::var("OUT_DIR").unwrap()).join("kfa.h");
    cbindgen::generate(root).expect("cbindgen reads src/abi.rs and src/capi").write_to_file(out);
}

/// Compiles each `kernels/<arch>/<name>.cu` into one compressed fatbin and lists them all in
/// `$OUT_DIR/cuda_modules.rs`, which `src/cuda/modules.rs` includes.
mod cuda {
    use super::*;

    /// Compute capabilities that get machine code, unless `KFA_CUDA_ARCHS` says otherwise.
    const ARCHS: [u32; 4] = [80, 86, 89, 90];
    /// The PTX that later devices compile at load time.
    const PTX: u32 = 80;

    /// One source file and what it becomes.
    struct Unit {
        /// `<arch folder>/<file stem>`, the module's name.
        name: String,
        source: PathBuf,
        archs: Vec<u32>,
        ptx: Option<u32>,
        fatbin: PathBuf,
    }

    pub fn build() {
        for variable in ["NVCC", "CUDA_HOME", "PATH", "KFA_CUDA_ARCHS", "KFA_CUDA_ONLY"] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        println!("cargo:rerun-if-changed=kernels");
        let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
        let out = PathBuf::from(env::var("OUT_DIR").unwrap());
        let list = match find_nvcc(&root) {
            Ok(nvcc) => modules(&nvcc, &root.join("kernels"), &out),
            Err(tried) => {
                println!("cargo:warning=CUDA kernels are not built: no nvcc found ({tried})");
                format!(
                    "pub const MISSING: Option<&str> = Some({:?});\npub static MODULES: &[Module] = &[];\n",
                    format!("no nvcc found at build time: {tried}")
                )
            }
        };
        fs::write(out.join("cuda_modules.rs"), list).unwrap();
    }

    /// NVCC, CUDA_HOME, PATH, then what `tools/setup-cuda` installed; or where we looked.
    fn find_nvcc(root: &Path) -> Result<PathBuf, String> {
        // A request by name is never replaced by something else that happens to lie around.
        if let Some(named) = env::var_os("NVCC").filter(|value| !value.is_empty()) {
            let named = PathBuf::from(named);
            return if runs(&named) {
                Ok(named)
            } else {
                Err(format!("NVCC={} does not run", named.display()))
            };
        }
        let mut candidates = Vec::new();
        if let Some(home) = env::var_os("CUDA_HOME").filter(|value| !value.is_empty()) {
            candidates.push(Path::new(&home).join("bin/nvcc"));
        }
        candidates.push(PathBuf::from("nvcc"));
        let wheels = fs::read_dir(root.join(".venv/lib")).into_iter().flatten().flatten();
        candidates
            .extend(wheels.map(|python| python.path().join("site-packages/nvidia/cu13/bin/nvcc")));
        candidates.iter().find(|nvcc| runs(nvcc)).cloned().ok_or_else(|| {
            "tried NVCC, CUDA_HOME, PATH and .venv; tools/setup-cuda installs one".to_owned()
        })
    }

    fn runs(nvcc: &Path) -> bool {
        Command::new(nvcc).arg("--version").output().is_ok_and(|output| output.status.success())
    }

    /// Compiles what changed and returns the Rust source that embeds everything.
    fn modules(nvcc: &Path, kernels: &Path, out: &Path) -> String {
        let archs = archs();
        let only = env::var("KFA_CUDA_ONLY").unwrap_or_default();
        let wanted =
            |name: &str| only.is_empty() || only.split(',').any(|prefix| name.starts_with(prefix));
        // Builds of all profiles share the compiled kernels: <target>/<profile>/build/<crate>/out.
        let cache = out.ancestors().nth(4).unwrap_or(out).join("kfa-kernels");
        fs::create_dir_all(&cache).unwrap();

        let version = Command::new(nvcc).arg("--version").output().unwrap().stdout;
        let mut common = DefaultHasher::new();
        version.hash(&mut common);
        hash_headers(&mut common, kernels);
        hash_headers(&mut common, &kernels.join("common"));

        let mut units = Vec::new();
        for folder in entries(kernels).into_iter().filter(|path| path.is_dir()) {
            let arch = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let mut shared = common.clone();
            hash_headers(&mut shared, &folder);
            for source in entries(&folder)
                .into_iter()
                .filter(|path| path.extension().is_some_and(|e| e == "cu"))
            {
                let name = format!("{arch}/{}", source.file_stem().unwrap().to_str().unwrap());
                let (archs, ptx) = match arch.as_str() {
                    // The a in sm_90a: wgmma and setmaxnreg, for this one chip and no later one.
                    "sm90" => (archs.iter().copied().filter(|arch| *arch == 90).collect(), None),
                    _ => (archs.clone(), Some(PTX)),
                };
                if archs.is_empty() || !wanted(&name) {
                    continue;
                }
                let mut hasher = shared.clone();
                fs::read(&source).unwrap().hash(&mut hasher);
                (&name, &archs, flags(&name, &archs, ptx)).hash(&mut hasher);
                let fatbin = cache.join(format!(
                    "{}-{:016x}.fatbin",
                    name.replace('/', "-"),
                    hasher.finish()
                ));
                units.push(Unit { name, source, archs, ptx, fatbin });
            }
        }

        let queue =
            Mutex::new(units.iter().filter(|unit| !unit.fatbin.exists()).collect::<Vec<_>>());
        let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(2);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        let Some(unit) = queue.lock().unwrap().pop() else { break };
                        compile(nvcc, kernels, unit);
                    }
                });
            }
        });

        let mut list =
            "pub const MISSING: Option<&str> = None;\npub static MODULES: &[Module] = &[\n"
                .to_owned();
        for unit in &units {
            let fatbin = out.join(unit.name.replace('/', "-")).with_extension("fatbin");
            fs::copy(&unit.fatbin, &fatbin).unwrap();
            writeln!(
                list,
                "    Module {{ name: {:?}, archs: &{:?}, ptx: {:?}, image: include_bytes!({fatbin:?}) }},",
                unit.name, unit.archs, unit.ptx
            )
            .unwrap();
        }
        list + "];\n"
    }

    fn archs() -> Vec<u32> {
        match env::var("KFA_CUDA_ARCHS") {
            Ok(text) if !text.is_empty() => text
                .split([',', ' '])
                .map(|arch| match arch.parse() {
                    Ok(arch) if arch >= 80 => arch,
                    _ => panic!("KFA_CUDA_ARCHS={text}: expected numbers from 80, such as 80,90"),
                })
                .collect(),
            _ => ARCHS.to_vec(),
        }
    }

    fn flags(name: &str, archs: &[u32], ptx: Option<u32>) -> Vec<String> {
        let mut flags: Vec<String> =
            ["-std=c++17", "-O3", "--fatbin", "-compress-mode=size"].map(str::to_owned).to_vec();
        if name.starts_with("sm90/") {
            flags.push("-gencode=arch=compute_90a,code=sm_90a".to_owned());
            return flags;
        }
        // Devices before 9.0 share one pass of the compiler's front half, that of the PTX.
        let base = ptx.unwrap_or(u32::MAX);
        let (old, new): (Vec<u32>, Vec<u32>) =
            archs.iter().copied().partition(|arch| (base..90).contains(arch));
        for arch in new {
            flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
        }
        let codes: Vec<_> = old
            .iter()
            .map(|arch| format!("sm_{arch}"))
            .chain(ptx.map(|ptx| format!("compute_{ptx}")))
            .collect();
        match codes.as_slice() {
            [] => {}
            [code] => flags.push(format!("-gencode=arch=compute_{base},code={code}")),
            _ => flags.push(format!("-gencode=arch=compute_{base},code=[{}]", codes.join(","))),
        }
        flags
    }

    fn compile(nvcc: &Path, kernels: &Path, unit: &Unit) {
        // Written beside its place and renamed, so that a build cut short leaves no half file.
        let partial = unit.fatbin.with_extension(format!("{}.partial", std::process::id()));
        let output = Command::new(nvcc)
            .args(flags(&unit.name, &unit.archs, unit.ptx))
            .arg("-I")
            .arg(kernels)
            .arg(&unit.source)
            .arg("-o")
            .arg(&partial)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "nvcc failed on {}:\n{text}", unit.source.display());
        for line in text.lines() {
            println!("cargo:warning={}: {line}", unit.name);
        }
        fs::rename(&partial, &unit.fatbin).unwrap();
    }

    fn hash_headers(hasher: &mut DefaultHasher, folder: &Path) {
        for path in entries(folder) {
            if path.extension().is_some_and(|e| e == "h" || e == "cuh") {
                path.file_name().hash(hasher);
                fs::read(&path).unwrap().hash(hasher);
            }
        }
    }

    /// What a folder holds, in a fixed order; nothing if it does not exist.
    fn entries(folder: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<_> =
            fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }
}
