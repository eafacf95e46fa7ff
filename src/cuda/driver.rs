//! The CUDA driver, and the only file that knows its bindings.
//!
//! libcuda is opened at run time; each function is looked up when it is first called, and [`probe`]
//! has made sure that they all exist. Everything that lives as long as the process (the probe, the
//! contexts' records, modules, kernel handles) is never torn down: at exit the driver goes first,
//! and nothing of ours may call it then.
//!
//! The hot path, [`enter`] and [`Gpu::launch`], takes no lock, allocates nothing and never waits.
//! What a first call in a context must do besides (loading code, allocating scratch) runs with the
//! thread's capture mode relaxed, so that it works inside a stream capture too.

use crate::cuda::caps::{self, Caps};
use crate::cuda::modules::{self, MODULES, Module};
use crate::cuda::params::Params;
use crate::error::{Error, Result, Status};
use crate::problem::Problem;
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdeviceptr, CUresult, CUstream};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Contexts of one process that kernels can be loaded into. Almost every process has one per GPU.
const MAX_CONTEXTS: usize = 16;

// ---- errors ------------------------------------------------------------------------------------

/// `CUDA_ERROR_… (text)` of a result.
fn describe(result: CUresult) -> String {
    let text = |query: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = null();
        // SAFETY: the driver writes a pointer to a static string, or leaves ours.
        unsafe {
            match query(result, &mut text) {
                CUresult::CUDA_SUCCESS if !text.is_null() => {
                    CStr::from_ptr(text).to_string_lossy().into_owned()
                }
                _ => format!("error {}", result as u32),
            }
        }
    };
    format!("{} ({})", text(sys::cuGetErrorName), text(sys::cuGetErrorString))
}

/// Turns a driver's result into ours; `what` names the call.
fn check(result: CUresult, what: &str) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(Error {
            status: Status::OutOfMemory,
            message: format!("{what}: {}", describe(result)),
        }),
        _ => Err(Error { status: Status::Cuda, message: format!("{what}: {}", describe(result)) }),
    }
}

// ---- the probe ---------------------------------------------------------------------------------

struct Driver {
    /// The process that initialised the driver.
    pid: u32,
    devices: Vec<Device>,
}

/// Set in a fork of a process that had initialised the driver: the fork cannot use it. Cheaper to
/// look at in every call than the process's number, which is a system call.
static FORKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_fork() {
    FORKED.store(true, Ordering::Relaxed);
}

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> c_int;
}

/// One GPU.
pub struct Device {
    handle: CUdevice,
    caps: Caps,
    /// Retained at first use and never released; null until then.
    primary: AtomicPtr<sys::CUctx_st>,
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

fn driver() -> Result<&'static Driver> {
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
    const FUNCTIONS: [&str; 23] = [
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
        "cuModuleGetFunction",
        "cuModuleLoadData",
        "cuPointerGetAttribute",
        "cuPointerGetAttributes",
        "cuThreadExchangeStreamCaptureMode",
    ];
    for name in FUNCTIONS {
        // SAFETY: the symbol is looked up, not called.
        if unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(format!("the NVIDIA driver is too old: it has no {name} (CUDA 12.0)"));
        }
    }
    // SAFETY: the handler only stores to a static, and glibc takes it back should the library go.
    if unsafe { pthread_atfork(None, None, Some(note_fork)) } != 0 {
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
        };
        Ok(Device { handle, caps, primary: AtomicPtr::new(null_mut()) })
    }
}

// ---- pointers ----------------------------------------------------------------------------------

/// Where a pointer points.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Memory that the driver does not know: ordinary host memory.
    Unknown,
    /// Pinned or registered host memory.
    Host,
    /// Memory of the device with this ordinal.
    Device(i32),
    /// Managed memory, which every device can reach; the ordinal it was allocated from.
    Managed(i32),
}

/// Where a pointer points, and the addresses around it that the answer holds for as well.
fn place(pointer: *const c_void) -> Result<(Place, Range<usize>)> {
    use sys::CUpointer_attribute_enum::*;
    let (mut kind, mut ordinal, mut managed, mut whole) = (0u32, -1i32, 0u32, 0u32);
    let (mut start, mut size) = (0u64, 0usize);
    let mut which = [
        CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
        CU_POINTER_ATTRIBUTE_IS_MANAGED,
        CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
        CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
        CU_POINTER_ATTRIBUTE_RANGE_SIZE,
    ];
    let mut values: [*mut c_void; 6] = [
        (&raw mut kind).cast(),
        (&raw mut ordinal).cast(),
        (&raw mut managed).cast(),
        (&raw mut whole).cast(),
        (&raw mut start).cast(),
        (&raw mut size).cast(),
    ];
    let count = which.len() as u32;
    // SAFETY: as many values as attributes, each of its attribute's type. The call only looks the
    // address up; it is permitted during stream capture.
    let result = unsafe {
        sys::cuPointerGetAttributes(
            count,
            which.as_mut_ptr(),
            values.as_mut_ptr(),
            pointer.addr() as u64,
        )
    };
    check(result, "cuPointerGetAttributes")?;
    const HOST: u32 = sys::CUmemorytype_enum::CU_MEMORYTYPE_HOST as u32;
    let place = match kind {
        0 => Place::Unknown,
        _ if managed & 0xff != 0 => Place::Managed(ordinal),
        HOST => Place::Host,
        _ => Place::Device(ordinal),
    };
    // What can be shared by IPC is one cuMemAlloc, all of it on its device. The range of anything
    // else may be a reservation with holes, or with pages of several devices.
    let start = start as usize;
    let range = if whole & 0xff != 0 { start..start.saturating_add(size) } else { 0..0 };
    Ok((place, range))
}

/// A pointer of the caller's and the argument's name.
type Pointer<'a> = (&'a str, *const c_void);

fn pointers_of(p: &Problem) -> [Pointer<'static>; 7] {
    [
        ("query.data", p.query.data.cast_const().cast()),
        ("key.data", p.key.data.cast_const().cast()),
        ("value.data", p.value.data.cast_const().cast()),
        ("output.data", p.output.data.cast_const().cast()),
        ("lse", p.lse.cast_const().cast()),
        ("workspace", p.workspace.cast_const().cast()),
        ("pos_device", p.pos_device.cast()),
    ]
}

/// The device that a call's pointers belong to; refuses host pointers and mixed devices.
///
/// Null pointers (an absent LSE; every tensor while only planning) are passed over; `None` if that
/// leaves nothing, or only managed memory without a home.
fn locate(pointers: &[Pointer], asked: Option<i32>) -> Result<Option<i32>> {
    let mut device: Option<(i32, &str)> = None;
    let mut home = None;
    // A lookup costs 0.1 us and more; tensors of one pool, as small ones often are, need but one.
    let mut known: [(Place, Range<usize>); 4] = [const { (Place::Unknown, 0..0) }; 4];
    let mut lookups = 0;
    for &(name, pointer) in pointers {
        if pointer.is_null() {
            continue;
        }
        let found = known.iter().find(|(_, around)| around.contains(&pointer.addr()));
        let seen = match found {
            Some((seen, _)) => *seen,
            None => {
                let looked_up = place(pointer)?;
                let seen = looked_up.0;
                known[lookups % known.len()] = looked_up;
                lookups += 1;
                seen
            }
        };
        match seen {
            Place::Device(ordinal) => match device {
                Some((first, whose)) if first != ordinal => {
                    return Err(Error::invalid(format!(
                        "{name} is memory of CUDA device {ordinal}, but {whose} of device {first}; expected one device"
                    )));
                }
                _ => device = Some((ordinal, name)),
            },
            // Reachable from every device, at the price of migrating pages.
            Place::Managed(ordinal) => home = home.or((ordinal >= 0).then_some(ordinal)),
            // A single number in mapped memory costs nothing; a tensor would cross the bus.
            Place::Host if name == "pos_device" => {}
            Place::Host => {
                return Err(Error::invalid(format!(
                    "{name} is {pointer:p}, which is pinned host memory; expected memory of a CUDA device"
                )));
            }
            Place::Unknown => {
                return Err(Error::invalid(format!(
                    "{name} is {pointer:p}, which is not CUDA memory; expected memory of a CUDA device"
                )));
            }
        }
    }
    let found = device.map(|(ordinal, _)| ordinal);
    match (asked, found) {
        (Some(asked), Some(ordinal)) if asked != ordinal => Err(Error::invalid(format!(
            "device_index is {asked}, but the tensors are memory of CUDA device {ordinal}"
        ))),
        (asked, found) => Ok(found.or(asked).or(home)),
    }
}

// ---- contexts ----------------------------------------------------------------------------------

/// What we loaded into one CUDA context. Lives for ever: contexts are few, and their ids unique.
struct Context {
    id: u64,
    device: CUdevice,
    /// Where kernels keep their handles of this context.
    slot: usize,
    /// Loaded modules, null until first needed.
    modules: Vec<AtomicPtr<sys::CUmod_st>>,
}

static CONTEXTS: [AtomicPtr<Context>; MAX_CONTEXTS] =
    [const { AtomicPtr::new(null_mut()) }; MAX_CONTEXTS];

/// Held while anything is loaded or registered; never on the hot path.
static LOADING: Mutex<()> = Mutex::new(());

fn loading() -> MutexGuard<'static, ()> {
    LOADING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    /// The record of a context that is current, made at first sight.
    fn of(context: CUcontext) -> Result<&'static Context> {
        let mut id = 0;
        // SAFETY: the context is current, hence alive; one number is written.
        check(unsafe { sys::cuCtxGetId(context, &mut id) }, "cuCtxGetId")?;
        match Self::find(id) {
            Some(known) => Ok(known),
            None => Self::register(id),
        }
    }

    /// The record of the thread's current context; `None` if it has none.
    fn current() -> Result<Option<&'static Context>> {
        let mut context = null_mut();
        // SAFETY: one handle is written.
        check(unsafe { sys::cuCtxGetCurrent(&mut context) }, "cuCtxGetCurrent")?;
        if context.is_null() { Ok(None) } else { Self::of(context).map(Some) }
    }

    fn find(id: u64) -> Option<&'static Context> {
        CONTEXTS
            .iter()
            // SAFETY: a non-null entry is a leaked box, valid for ever.
            .map_while(|entry| unsafe { entry.load(Ordering::Acquire).as_ref() })
            .find(|context| context.id == id)
    }

    #[cold]
    fn register(id: u64) -> Result<&'static Context> {
        let _guard = loading();
        if let Some(known) = Self::find(id) {
            return Ok(known);
        }
        let slot = CONTEXTS.iter().position(|entry| entry.load(Ordering::Relaxed).is_null());
        let slot = slot.ok_or_else(|| {
            Error::unsupported(format!(
                "this process has used attention in {MAX_CONTEXTS} CUDA contexts already; expected no more"
            ))
        })?;
        let mut device = 0;
        // SAFETY: one number is written.
        check(unsafe { sys::cuCtxGetDevice(&mut device) }, "cuCtxGetDevice")?;
        let modules = MODULES.iter().map(|_| AtomicPtr::new(null_mut())).collect();
        let context: &'static Context = Box::leak(Box::new(Context { id, device, slot, modules }));
        CONTEXTS[slot].store((&raw const *context).cast_mut(), Ordering::Release);
        Ok(context)
    }

    /// The loaded module; `LOADING` is held and this context is current.
    fn module(&self, name: &str) -> Result<sys::CUmodule> {
        let index = Module::index(name)
            .ok_or_else(|| Error::unsupported(format!("this build has no {name} kernels")))?;
        let mut module = self.modules[index].load(Ordering::Acquire);
        if module.is_null() {
            // SAFETY: the image is a whole fatbin that nvcc wrote, and lives for ever.
            let result = relaxed(|| unsafe {
                sys::cuModuleLoadData(&mut module, MODULES[index].image.as_ptr().cast())
            });
            check(result, &format!("cuModuleLoadData of {name}"))?;
            self.modules[index].store(module, Ordering::Release);
        }
        Ok(module)
    }
}

/// Runs calls that a strict stream capture, of any thread, would forbid and break by: they touch
/// no stream, so no capture depends on them.
fn relaxed<T>(calls: impl FnOnce() -> T) -> T {
    let mut mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: swaps this thread's mode with the variable; the second call swaps back.
    unsafe {
        sys::cuThreadExchangeStreamCaptureMode(&mut mode);
        let value = calls();
        sys::cuThreadExchangeStreamCaptureMode(&mut mode);
        value
    }
}

/// Pops a context that was pushed for a call.
struct Pushed(bool);

impl Drop for Pushed {
    fn drop(&mut self) {
        if self.0 {
            let mut popped = null_mut();
            // SAFETY: pops what `make_current` pushed on this thread.
            unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
        }
    }
}

/// The context to work in on a device: the caller's, if it belongs to that device, as a foreign
/// engine's handles may live there; else the primary one, which the CUDA runtime uses.
fn make_current(device: &Device) -> Result<(&'static Context, Pushed)> {
    if let Some(current) = Context::current()?.filter(|current| current.device == device.handle) {
        return Ok((current, Pushed(false)));
    }
    let mut primary = device.primary.load(Ordering::Acquire);
    if primary.is_null() {
        let _guard = loading();
        primary = device.primary.load(Ordering::Acquire);
        if primary.is_null() {
            // SAFETY: the handle is a device's; the retained context is kept for ever.
            let result =
                relaxed(|| unsafe { sys::cuDevicePrimaryCtxRetain(&mut primary, device.handle) });
            check(result, "cuDevicePrimaryCtxRetain")?;
            device.primary.store(primary, Ordering::Release);
        }
    }
    // SAFETY: the context is retained; the guard pops it on this thread.
    check(unsafe { sys::cuCtxPushCurrent_v2(primary) }, "cuCtxPushCurrent")?;
    let pushed = Pushed(true);
    Ok((Context::of(primary)?, pushed))
}

/// The device that a problem is, or would be, served by.
pub fn planned_device(p: &Problem) -> Result<&'static Device> {
    device_of(&pointers_of(p), p.device_index)
}

/// The device of the pointers, else the one asked for, else that of the current context, else the
/// first.
fn device_of(pointers: &[Pointer], asked: Option<i32>) -> Result<&'static Device> {
    let driver = driver()?;
    let ordinal = match locate(pointers, asked)? {
        Some(ordinal) => ordinal,
        None => Context::current()?.map_or(0, |current| current.device),
    };
    driver.devices.get(ordinal as usize).ok_or_else(|| {
        Error::invalid(format!(
            "device_index is {ordinal}; expected below {}, the number of CUDA devices",
            driver.devices.len()
        ))
    })
}

/// Loads modules into the context that a call would use.
pub fn load(device: &'static Device, modules: &[&str]) -> Result<()> {
    let (context, _pushed) = make_current(device)?;
    let _guard = loading();
    modules.iter().try_for_each(|name| context.module(name).map(drop))
}

// ---- launches ----------------------------------------------------------------------------------

/// A kernel's entry point; a `static` in the algorithm's file.
pub struct Kernel {
    module: &'static str,
    name: &'static CStr,
    /// Handles by context slot, null until first used there.
    handles: [AtomicPtr<sys::CUfunc_st>; MAX_CONTEXTS],
}

impl Kernel {
    pub const fn new(module: &'static str, name: &'static CStr) -> Self {
        Self { module, name, handles: [const { AtomicPtr::new(null_mut()) }; MAX_CONTEXTS] }
    }

    #[cold]
    fn load(&self, gpu: &Gpu) -> Result<sys::CUfunction> {
        use sys::CUfunction_attribute_enum::*;
        let _guard = loading();
        let module = gpu.context.module(self.module)?;
        let mut function = null_mut();
        let name = self.name.to_string_lossy();
        // SAFETY: the module is loaded in the current context; the calls write our variables.
        let result = relaxed(|| unsafe {
            match sys::cuModuleGetFunction(&mut function, module, self.name.as_ptr()) {
                CUresult::CUDA_SUCCESS => {}
                error => return error,
            }
            // Any dynamic shared memory that a launch asks for is permitted from here on. Setting
            // an attribute also makes a lazily loading driver load the kernel now.
            let mut fixed = 0;
            match sys::cuFuncGetAttribute(&mut fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function)
            {
                CUresult::CUDA_SUCCESS => {}
                error => return error,
            }
            if gpu.device.caps.clusters {
                // Clusters of up to 16 blocks, twice what every device with clusters runs.
                match sys::cuFuncSetAttribute(
                    function,
                    CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
                    1,
                ) {
                    CUresult::CUDA_SUCCESS => {}
                    error => return error,
                }
            }
            sys::cuFuncSetAttribute(
                function,
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                gpu.device.caps.shared_per_block as i32 - fixed,
            )
        });
        check(result, &format!("loading kernel {name}"))?;
        self.handles[gpu.context.slot].store(function, Ordering::Release);
        Ok(function)
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Blocks of a cluster along x; 0 for none. Only where [`Caps::clusters`] says so.
    pub cluster: u32,
    /// Programmatic dependent launch: the kernel may start while its predecessor on the stream
    /// ends, and itself waits (`griddepcontrol.wait`) before it reads what that wrote. Ignored
    /// where [`Caps::clusters`] is false, as the wait is none there either.
    pub dependent: bool,
}

impl Launch {
    pub const DEFAULT: Launch =
        Launch { grid: [1; 3], block: 1, shared: 0, cluster: 0, dependent: false };
}

/// What a kernel takes, by value, as its one parameter.
///
/// # Safety
/// The type is `repr(C)` and mirrors the struct in the kernel's source.
pub unsafe trait KernelParams {}

// SAFETY: repr(C), and both sides assert the size.
unsafe impl KernelParams for Params {}

/// A device to enqueue on: its context is current while this lives.
pub struct Gpu {
    device: &'static Device,
    context: &'static Context,
    stream: CUstream,
    _pushed: Pushed,
}

/// Finds the problem's device, checks its pointers and makes the right context current.
pub fn enter(p: &Problem) -> Result<Gpu> {
    enter_with(&pointers_of(p), p.device_index, p.stream)
}

/// [`enter`] for calls that are no attention problem.
pub fn enter_with(pointers: &[Pointer], device: Option<i32>, stream: *mut c_void) -> Result<Gpu> {
    let device = device_of(pointers, device)?;
    let (context, pushed) = make_current(device)?;
    Ok(Gpu { device, context, stream: stream.cast(), _pushed: pushed })
}

impl Gpu {
    pub fn caps(&self) -> &Caps {
        &self.device.caps
    }

    /// Enqueues a kernel on the caller's stream.
    pub fn launch<P: KernelParams>(
        &self,
        kernel: &Kernel,
        launch: Launch,
        params: &P,
    ) -> Result<()> {
        let mut function = kernel.handles[self.context.slot].load(Ordering::Acquire);
        if function.is_null() {
            function = kernel.load(self)?;
        }
        let Launch { grid: [x, y, z], block, shared, cluster, dependent } = launch;
        let clusters = self.device.caps.clusters;
        let dependent = dependent && clusters;
        // A kernel compiled without clusters would take each block for a whole one.
        debug_assert!(cluster <= 1 || clusters, "{:?} in clusters", kernel.name);
        let mut values: [*mut c_void; 1] = [(&raw const *params).cast_mut().cast()];
        let result = if cluster == 0 && !dependent {
            // SAFETY: the handle belongs to the current context, and the driver copies the one
            // parameter, of the kernel's type, before it returns.
            unsafe {
                sys::cuLaunchKernel(
                    function,
                    x,
                    y,
                    z,
                    block,
                    1,
                    1,
                    shared,
                    self.stream,
                    values.as_mut_ptr(),
                    null_mut(),
                )
            }
        } else {
            let mut attributes =
                [attribute_cluster(cluster.max(1)), attribute_dependent(dependent)];
            let config = sys::CUlaunchConfig {
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: block,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: shared,
                hStream: self.stream,
                attrs: attributes.as_mut_ptr(),
                numAttrs: attributes.len() as u32,
            };
            // SAFETY: as above; the configuration lives until the call returns.
            unsafe { sys::cuLaunchKernelEx(&config, function, values.as_mut_ptr(), null_mut()) }
        };
        if result == CUresult::CUDA_SUCCESS {
            return Ok(());
        }
        check(result, &format!("launching {} as {launch:?}", kernel.name.to_string_lossy()))
    }
}

fn attribute_cluster(blocks: u32) -> sys::CUlaunchAttribute {
    // SAFETY: all bit patterns are valid for a C struct of integers; zero means nothing set.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim.x = blocks;
    attribute.value.clusterDim.y = 1;
    attribute.value.clusterDim.z = 1;
    attribute
}

fn attribute_dependent(dependent: bool) -> sys::CUlaunchAttribute {
    // SAFETY: as above.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id =
        sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = i32::from(dependent);
    attribute
}

// ---- scratch -----------------------------------------------------------------------------------

/// Device memory for calls that bring no workspace, one buffer per context and stream: work on one
/// stream runs in order, so it may share a buffer, and work on two may not.
///
/// A buffer that became too small is kept until the whole scratch is dropped, because enqueued
/// work and captured graphs still use it; doubling bounds the waste by the largest.
pub struct Scratch {
    buffers: Mutex<Vec<Buffer>>,
}

struct Buffer {
    device: &'static Device,
    context: u64,
    stream: usize,
    data: CUdeviceptr,
    bytes: usize,
    /// The driver's unique number of the allocation, by which a stale address is told from it.
    id: u64,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    pub const fn new() -> Self {
        Self { buffers: Mutex::new(Vec::new()) }
    }

    /// A buffer of at least `bytes` for the stream that `gpu` enqueues on, and its size.
    pub fn at_least(&self, bytes: usize, gpu: &Gpu) -> Result<(*mut u8, usize)> {
        let (context, stream) = (gpu.context.id, stream_key(gpu.stream));
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut largest = 0;
        for buffer in buffers.iter().filter(|b| b.context == context && b.stream == stream) {
            if buffer.bytes >= bytes {
                return Ok((buffer.data as *mut u8, buffer.bytes));
            }
            largest = largest.max(buffer.bytes);
        }
        let bytes = bytes.max(largest.saturating_mul(2));
        let mut data = 0;
        // SAFETY: the context is current; the call writes one address.
        let result = relaxed(|| unsafe { sys::cuMemAlloc_v2(&mut data, bytes) });
        check(result, &format!("allocating {bytes} bytes of workspace"))?;
        let id = buffer_id(data).unwrap_or(0);
        buffers.push(Buffer { device: gpu.device, context, stream, data, bytes, id });
        Ok((data as *mut u8, bytes))
    }
}

impl Drop for Scratch {
    /// Frees the buffers, if they still exist: their context may be gone, or the driver, or this
    /// process a fork. The driver waits for work that uses them.
    fn drop(&mut self) {
        let buffers = self.buffers.get_mut().unwrap_or_else(PoisonError::into_inner);
        if buffers.is_empty() || driver().is_err() {
            return;
        }
        for Buffer { device, data, id, .. } in &*buffers {
            // Freeing needs some context of the device; the driver knows which the memory is of.
            let Ok((_, _pushed)) = make_current(device) else { continue };
            if *id != 0 && buffer_id(*data) == Some(*id) {
                // SAFETY: the address is still our allocation, and nobody else's to free.
                relaxed(|| unsafe { sys::cuMemFree_v2(*data) });
            }
        }
    }
}

/// The driver's number of an allocation; `None` if it has none at this address.
fn buffer_id(data: CUdeviceptr) -> Option<u64> {
    let mut id = 0u64;
    let which = sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_BUFFER_ID;
    // SAFETY: the attribute is one 64-bit number.
    let result = unsafe { sys::cuPointerGetAttribute((&raw mut id).cast(), which, data) };
    (result == CUresult::CUDA_SUCCESS && id != 0).then_some(id)
}

/// Tells streams apart. The per-thread default stream has one handle for all threads, so it stands
/// for the address of something that each thread has its own of.
fn stream_key(stream: CUstream) -> usize {
    const PER_THREAD: usize = 2;
    thread_local!(static THREAD: u8 = const { 0 });
    match stream.addr() {
        PER_THREAD => THREAD.with(|own| (&raw const *own).addr()),
        address => address,
    }
}
