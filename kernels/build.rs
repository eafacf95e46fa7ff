//! Builds the kernels: each `<arch>/<name>.cu` becomes a compressed fatbin, compiled again only when
//! it, its folder's manifest or a header that it includes changed, and each `<arch>/<family>.list`
//! becomes Rust macros, so that launches and kernels know of the same tiles.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Writes `cuda_modules.rs`, which `src/cuda/modules.rs` includes, and `kernel_lists.rs`, which
/// `src/cuda/lists.rs` includes.
pub fn build() {
    for variable in ["NVCC", "CUDA_HOME", "PATH", "KFA_CUDA_ARCHS", "KFA_CUDA_ONLY"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=kernels");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let kernels = root.join("kernels");
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    fs::write(out.join("kernel_lists.rs"), lists(&kernels)).unwrap();
    let modules = match find_nvcc(&root) {
        Ok(nvcc) => modules(&nvcc, &kernels, &out),
        Err(tried) => {
            println!("cargo:warning=CUDA kernels are not built: no nvcc found ({tried})");
            format!(
                "pub const MISSING: Option<&str> = Some({:?});\npub static MODULES: &[Module] = &[];\n",
                format!("no nvcc found at build time: {tried}")
            )
        }
    };
    fs::write(out.join("cuda_modules.rs"), modules).unwrap();
}

// ---- lists ---------------------------------------------------------------------------------------

/// Each line `KFA_NAME(a, b)` of the lists as a row of the Rust macro `name`, which hands all its
/// rows, `[a, b] …`, to the macro that it is given, behind what else it is given.
fn lists(kernels: &Path) -> String {
    let mut rust = String::new();
    for path in folders(kernels).iter().flat_map(|folder| entries(folder, "list")) {
        let text = fs::read_to_string(&path).unwrap();
        let mut macros: Vec<(String, String)> = Vec::new();
        for line in text.lines().filter(|line| line.starts_with("KFA_")) {
            let (name, row) = line
                .trim_end()
                .strip_prefix("KFA_")
                .and_then(|line| line.strip_suffix(')'))
                .and_then(|line| line.split_once('('))
                .unwrap_or_else(|| panic!("{}: {line}: expected KFA_NAME(…)", path.display()));
            let name = name.to_lowercase();
            match macros.iter_mut().find(|known| known.0 == name) {
                Some((_, rows)) => write!(rows, " [{row}]").unwrap(),
                None => macros.push((name, format!("[{row}]"))),
            }
        }
        for (name, rows) in macros {
            writeln!(
                rust,
                "macro_rules! {name} {{ ($with:ident $($more:tt)*) => {{ $with! {{ $($more)* {rows} }} }} }}"
            )
            .unwrap();
        }
    }
    rust
}

// ---- compiling -----------------------------------------------------------------------------------

/// What a folder's manifest says.
struct Manifest {
    /// As nvcc names them: `sm_80` (machine code of 8.x), `sm_90a` (of 9.0 alone), `compute_80` (PTX).
    codes: Vec<String>,
    /// The compute capabilities that the kernels are for.
    devices: std::ops::RangeInclusive<u32>,
}

impl Manifest {
    fn read(folder: &Path) -> Self {
        let path = folder.join("manifest");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(key));
            lines.next().unwrap_or_else(|| panic!("{}: expected `{key} …`", path.display())).trim()
        };
        let devices = value("devices:");
        let from = devices.trim_end_matches(" and later");
        let capability = from.replace('.', "").parse().unwrap_or_else(|_| {
            panic!("{}: {devices}: expected such as `9.0` or `8.0 and later`", path.display())
        });
        Manifest {
            codes: value("codes:").split_whitespace().map(str::to_owned).collect(),
            devices: capability..=if from == devices { capability } else { u32::MAX },
        }
    }
}

/// The compute capability in a code's name.
fn capability(code: &str) -> u32 {
    let digits = code.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches('a');
    digits.parse().unwrap_or_else(|_| panic!("{code}: expected such as sm_80, sm_90a, compute_80"))
}

/// A code as `src/cuda/modules.rs` says it.
fn rust_code(code: &str) -> String {
    let kind = match code {
        _ if code.starts_with("compute_") => "Ptx",
        _ if code.ends_with('a') => "Specific",
        _ => "Machine",
    };
    format!("Code::{kind}({})", capability(code))
}

/// One source file and what it becomes.
struct Unit {
    /// `<arch folder>/<file stem>`, the module's name.
    name: String,
    source: PathBuf,
    codes: Vec<String>,
    devices: std::ops::RangeInclusive<u32>,
    fatbin: PathBuf,
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

    let mut units = Vec::new();
    for folder in folders(kernels) {
        let sources = entries(&folder, "cu");
        if sources.is_empty() {
            continue;
        }
        let arch = folder.file_name().unwrap().to_str().unwrap();
        let Manifest { mut codes, devices } = Manifest::read(&folder);
        codes.retain(|code| archs.as_ref().is_none_or(|archs| archs.contains(&capability(code))));
        for source in sources {
            let name = format!("{arch}/{}", source.file_stem().unwrap().to_str().unwrap());
            if codes.is_empty() || !wanted(&name) {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            (&version, &name, flags(&codes)).hash(&mut hasher);
            for file in with_headers(&source, kernels) {
                fs::read(file).unwrap().hash(&mut hasher);
            }
            let fatbin = format!("{}-{:016x}.fatbin", name.replace('/', "-"), hasher.finish());
            let fatbin = cache.join(fatbin);
            units.push(Unit {
                name,
                source,
                codes: codes.clone(),
                devices: devices.clone(),
                fatbin,
            });
        }
    }
    assert!(
        !units.is_empty(),
        "KFA_CUDA_ARCHS or KFA_CUDA_ONLY leaves no kernels: the manifests in kernels/ say what there is"
    );

    let queue = Mutex::new(units.iter().filter(|unit| !unit.fatbin.exists()).collect::<Vec<_>>());
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
        "pub const MISSING: Option<&str> = None;\npub static MODULES: &[Module] = &[\n".to_owned();
    for unit in &units {
        let fatbin = out.join(unit.name.replace('/', "-")).with_extension("fatbin");
        fs::copy(&unit.fatbin, &fatbin).unwrap();
        let codes: Vec<_> = unit.codes.iter().map(|code| rust_code(code)).collect();
        writeln!(
            list,
            "    Module {{ name: {:?}, codes: &[{}], devices: {:?}, image: include_bytes!({fatbin:?}) }},",
            unit.name,
            codes.join(", "),
            unit.devices,
        )
        .unwrap();
    }
    list + "];\n"
}

/// The compute capabilities that `KFA_CUDA_ARCHS` leaves of those in the manifests.
fn archs() -> Option<Vec<u32>> {
    let text = env::var("KFA_CUDA_ARCHS").ok().filter(|text| !text.is_empty())?;
    let archs = text.split([',', ' ']).map(|arch| match arch.parse() {
        Ok(arch) if arch >= 80 => arch,
        _ => panic!("KFA_CUDA_ARCHS={text}: expected numbers from 80, such as 80,90"),
    });
    Some(archs.collect())
}

/// One pass of the compiler's front half for each compute capability.
fn flags(codes: &[String]) -> Vec<String> {
    let mut flags: Vec<String> =
        ["-std=c++17", "-O3", "--fatbin", "-compress-mode=size"].map(str::to_owned).to_vec();
    let suffix = |code: &str| code[code.find('_').unwrap() + 1..].to_owned();
    for arch in codes.iter().map(|code| suffix(code)).collect::<BTreeSet<_>>() {
        let of_arch: Vec<_> =
            codes.iter().filter(|code| suffix(code) == arch).map(String::as_str).collect();
        flags.push(format!("-gencode=arch=compute_{arch},code=[{}]", of_arch.join(",")));
        if arch.ends_with('a') {
            flags.push("-Xptxas=--warn-on-spills".to_owned());
        }
    }
    flags
}

fn compile(nvcc: &Path, kernels: &Path, unit: &Unit) {
    // Written beside its place and renamed, so that a build cut short leaves no half file.
    let partial = unit.fatbin.with_extension(format!("{}.partial", std::process::id()));
    let output = Command::new(nvcc)
        .args(flags(&unit.codes))
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
    // ptxas only remarks that it gave a kernel of warpgroups up: took its registers away, made its matrix
    // instructions wait for each other, or keeps registers of it in memory.
    let spoilt = text.lines().find(|line| {
        line.contains("(C7508)") || line.contains("(C751") || line.contains("spilled")
    });
    if unit.codes.iter().any(|code| code.ends_with('a')) {
        assert!(spoilt.is_none(), "{}: {}", unit.source.display(), spoilt.unwrap_or_default());
    }
    for line in text.lines() {
        println!("cargo:warning={}: {line}", unit.name);
    }
    fs::rename(&partial, &unit.fatbin).unwrap();
}

// ---- files ---------------------------------------------------------------------------------------

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

/// A source and all of ours that it includes, directly or not, in the order of first sight.
fn with_headers(source: &Path, kernels: &Path) -> Vec<PathBuf> {
    let mut files = vec![source.to_owned()];
    let mut next = 0;
    while next < files.len() {
        let text = fs::read_to_string(&files[next]).unwrap();
        let folder = files[next].parent().unwrap().to_owned();
        next += 1;
        let names = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("#include \"")?.split('"').next());
        for name in names {
            let found = [folder.join(name), kernels.join(name)];
            let Some(file) = found.iter().find(|file| file.exists()) else { continue };
            if !files.contains(file) {
                files.push(file.clone());
            }
        }
    }
    files
}

fn folders(kernels: &Path) -> Vec<PathBuf> {
    sorted(kernels).into_iter().filter(|path| path.is_dir()).collect()
}

/// A folder's files with an extension.
fn entries(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let of_kind = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
    sorted(folder).into_iter().filter(of_kind).collect()
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
