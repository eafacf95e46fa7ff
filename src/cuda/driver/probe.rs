//! Is there a driver, and what are its devices? Asked once per process.

use super::result::check;
use crate::cuda::caps::{self, Caps};
use crate::cuda::modules;
use crate::error::{Error, Result, Status};
use cudarc::driver::sys::{self, CUdevice};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

pub(super) struct Driver {
    /// The process that initialised the driver.
    pid: u32,
    pub(super) devices: Vec<Device>,
}

/// Set in a fork of a process that had initialised the driver: the fork cannot use it. Cheaper to
/// look at in every call than the process's number, which is a system call.
static FORKED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn note_fork() {
    FORKED.store(true, Ordering::Relaxed);
}

/// One GPU.
pub struct Device {
    pub(super) handle: CUdevice,
    caps: Caps,
    /// Retained at first use and never released; null until then.
    pub(super) primary: AtomicPtr<sys::CUctx_st>,
}

impl Device {
    pub fn caps(&self) -> &Caps {
        &self.caps
    }
}

/// Whether there is a usable driver with a device; says what is missing otherwise.
pub fn probe() -> Result<()> {
    driver().map(drop)
}

pub(super) fn driver() -> Result<&'static Driver> {
    static DRIVER: OnceLock<std::result::Result<Driver, String>> = OnceLock::new();
    let found = DRIVER.get_or_init(|| {
        // A binding panics where the library or a function is missing. `start` asks before it
        // calls, so this is for what we did not foresee; a panic is a reason here, not a crash.
        std::panic::catch_unwind(start)
            .unwrap_or_else(|_| Err("the CUDA driver is incomplete".to_owned()))
    });
    let driver = found.as_ref().map_err(|why| Error {
        status: Status::NoDevice,
        message: format!("device is KFA_DEVICE_CUDA; {why}"),
    })?;
    if FORKED.load(Ordering::Relaxed) {
        return Err(Error {
            status: Status::Cuda,
            message: format!(
                "this process was forked from process {} after that had initialised CUDA, which a fork cannot use; fork before the first CUDA call, or exec",
                driver.pid
            ),
        });
    }
    Ok(driver)
}

fn start() -> std::result::Result<Driver, String> {
    // SAFETY: opening libcuda runs the driver's own initialisers and nothing else.
    if !unsafe { sys::is_culib_present() } {
        return Err("libcuda was not found: is an NVIDIA driver installed?".to_owned());
    }
    // What this file calls, by the names that the bindings look up.
    const FUNCTIONS: [&str; 24] = [
        "cuCtxGetCurrent",
        "cuCtxGetDevice",
        "cuCtxGetId",
        "cuCtxPopCurrent_v2",
        "cuCtxPushCurrent_v2",
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuDeviceGetCount",
        "cuDevicePrimaryCtxRetain",
        "cuFuncGetAttribute",
        "cuFuncSetAttribute",
        "cuGetErrorName",
        "cuGetErrorString",
        "cuInit",
        "cuLaunchKernel",
        "cuLaunchKernelEx",
        "cuMemAlloc_v2",
        "cuMemFree_v2",
        "cuMemsetD32Async",
        "cuModuleGetFunction",
        "cuModuleLoadData",
        "cuPointerGetAttribute",
        "cuPointerGetAttributes",
        "cuThreadExchangeStreamCaptureMode",
    ];
    for name in FUNCTIONS {
        if !has(name) {
            return Err(format!("the NVIDIA driver is too old: it has no {name} (CUDA 12.0)"));
        }
    }
    // SAFETY: the handler only stores to a static, and glibc takes it back should the library go.
    if unsafe { libc::pthread_atfork(None, None, Some(note_fork)) } != 0 {
        return Err("there is no memory left to watch for forks".to_owned());
    }
    let why = |error: Error| error.message;
    // SAFETY: each call writes only the variable whose address it gets.
    unsafe {
        check(sys::cuInit(0), "cuInit").map_err(why)?;
        let mut count = 0;
        check(sys::cuDeviceGetCount(&mut count), "cuDeviceGetCount").map_err(why)?;
        if count == 0 {
            return Err("the NVIDIA driver sees no device".to_owned());
        }
        let devices: Result<Vec<_>> = (0..count).map(|ordinal| device(ordinal)).collect();
        Ok(Driver { pid: std::process::id(), devices: devices.map_err(why)? })
    }
}

/// Whether the driver exports a function.
pub(super) fn has(name: &str) -> bool {
    // SAFETY: the symbol is looked up, not called.
    unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok()
}

/// # Safety
/// The driver is initialised.
unsafe fn device(ordinal: i32) -> Result<Device> {
    use sys::CUdevice_attribute::*;
    let mut handle = 0;
    // SAFETY: each call writes only the variable whose address it gets.
    unsafe {
        check(sys::cuDeviceGet(&mut handle, ordinal), "cuDeviceGet")?;
        let attribute = |which| {
            let mut value = 0;
            check(sys::cuDeviceGetAttribute(&mut value, which, handle), "cuDeviceGetAttribute")?;
            Ok(value as u32)
        };
        let capability = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
            + attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let arch = caps::arch(capability);
        let caps = Caps {
            capability,
            arch,
            sm_count: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_per_block: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            l2_bytes: attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            clusters: arch >= 90 && modules::know_clusters(capability),
            tensor_maps: arch >= 90 && has("cuTensorMapEncodeTiled"),
        };
        Ok(Device { handle, caps, primary: AtomicPtr::new(null_mut()) })
    }
}
