//! The contexts that work runs in, and the code that is loaded into each.

use super::place::{Pointer, locate, pointers_of};
use super::probe::{Device, driver, has};
use super::result::check;
use crate::cuda::modules::{MODULES, Module};
use crate::error::{Error, Result};
use crate::problem::Problem;
use cudarc::driver::sys::{self, CUcontext, CUdevice};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kernels that a context has room for: several times what there are.
const MAX_KERNELS: usize = 512;

/// No context's number.
const NOBODY: u64 = u64::MAX;

/// What we loaded into one CUDA context. A record lives for ever, so that it can be read without a
/// lock; that of a destroyed context is used again for a new one, so there are no more of them than
/// contexts at one time.
pub(super) struct Context {
    /// The driver's number of the context, which it gives to no other.
    id: AtomicU64,
    handle: AtomicPtr<sys::CUctx_st>,
    device: AtomicI32,
    /// Loaded modules, null until first needed.
    modules: Vec<AtomicPtr<sys::CUmod_st>>,
    /// Entry points by the kernel's number, null until first used here; none has number 0.
    kernels: [AtomicPtr<sys::CUfunc_st>; MAX_KERNELS],
    next: Option<&'static Context>,
}

/// The record made last, which leads to all others.
static CONTEXTS: AtomicPtr<Context> = AtomicPtr::new(null_mut());

/// Held while anything is loaded or registered; never on the hot path.
static LOADING: Mutex<()> = Mutex::new(());

pub(super) fn loading() -> MutexGuard<'static, ()> {
    LOADING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn records() -> impl Iterator<Item = &'static Context> {
    // SAFETY: null, or a leaked box, valid for ever.
    let last = unsafe { CONTEXTS.load(Ordering::Acquire).as_ref() };
    std::iter::successors(last, |record| record.next)
}

/// The driver's number of a context; an error if it was destroyed.
fn id_of(context: CUcontext) -> Result<u64> {
    let mut id = 0;
    // SAFETY: the driver checks the handle; one number is written.
    check(unsafe { sys::cuCtxGetId(context, &mut id) }, "cuCtxGetId").map(|()| id)
}

impl Context {
    /// The record of a context that is current, made at first sight.
    fn of(context: CUcontext) -> Result<&'static Context> {
        let id = id_of(context)?;
        match Self::find(id) {
            Some(known) => Ok(known),
            None => Self::register(context, id),
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
        records().find(|record| record.id() == id)
    }

    #[cold]
    fn register(handle: CUcontext, id: u64) -> Result<&'static Context> {
        let _guard = loading();
        if let Some(known) = Self::find(id) {
            return Ok(known);
        }
        let mut device = 0;
        // SAFETY: one number is written.
        check(unsafe { sys::cuCtxGetDevice(&mut device) }, "cuCtxGetDevice")?;
        let record = records().find(|record| record.is_dead()).unwrap_or_else(Self::add);
        // Readers pass over the record while it is nobody's, and see the rest once they see its id.
        record.id.store(NOBODY, Ordering::Release);
        record.modules.iter().for_each(|module| module.store(null_mut(), Ordering::Relaxed));
        record.kernels.iter().for_each(|kernel| kernel.store(null_mut(), Ordering::Relaxed));
        record.handle.store(handle, Ordering::Relaxed);
        record.device.store(device, Ordering::Relaxed);
        record.id.store(id, Ordering::Release);
        Ok(record)
    }

    /// A new record, of nobody's; `LOADING` is held.
    fn add() -> &'static Context {
        let record: &'static Context = Box::leak(Box::new(Context {
            id: AtomicU64::new(NOBODY),
            handle: AtomicPtr::new(null_mut()),
            device: AtomicI32::new(0),
            modules: MODULES.iter().map(|_| AtomicPtr::new(null_mut())).collect(),
            kernels: [const { AtomicPtr::new(null_mut()) }; MAX_KERNELS],
            next: records().next(),
        }));
        CONTEXTS.store((&raw const *record).cast_mut(), Ordering::Release);
        record
    }

    /// Whether its context was destroyed; the driver may have given the handle to another.
    fn is_dead(&self) -> bool {
        id_of(self.handle.load(Ordering::Relaxed)).ok() != Some(self.id())
    }

    pub(super) fn id(&self) -> u64 {
        self.id.load(Ordering::Acquire)
    }

    fn device(&self) -> CUdevice {
        self.device.load(Ordering::Relaxed)
    }

    /// Where the handle of the kernel with this number is kept.
    pub(super) fn kernel(&self, number: usize) -> &AtomicPtr<sys::CUfunc_st> {
        &self.kernels[number]
    }

    /// The loaded module; `LOADING` is held and this context is current.
    pub(super) fn module(&self, name: &str) -> Result<sys::CUmodule> {
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

/// A number for a kernel, which has the same in all contexts; `LOADING` is held.
pub(super) fn number_kernel() -> Result<usize> {
    static NUMBERED: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBERED.fetch_add(1, Ordering::Relaxed) + 1;
    if number < MAX_KERNELS {
        Ok(number)
    } else {
        Err(Error::unsupported(format!("more than {} kernels are in use", MAX_KERNELS - 1)))
    }
}

/// Runs calls that a strict stream capture, of any thread, would forbid and break by: they touch
/// no stream, so no capture depends on them.
pub(super) fn relaxed<T>(calls: impl FnOnce() -> T) -> T {
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
pub(super) struct Pushed(bool);

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
pub(super) fn make_current(device: &Device) -> Result<(&'static Context, Pushed)> {
    if let Some(current) = Context::current()?.filter(|current| current.device() == device.handle) {
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
pub(super) fn device_of(pointers: &[Pointer], asked: Option<i32>) -> Result<&'static Device> {
    let driver = driver()?;
    let ordinal = match locate(pointers, asked)? {
        Some(ordinal) => ordinal,
        None => Context::current()?.map_or(0, Context::device),
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

/// Loads every kernel that the current device, or else the first, can run.
pub fn load_all() -> Result<()> {
    let device = device_of(&[], None)?;
    let (context, _pushed) = make_current(device)?;
    let _guard = loading();
    for module in MODULES.iter().filter(|module| module.runs_on(device.caps().capability)) {
        let handle = context.module(module.name)?;
        check(load_functions(handle), &format!("loading the kernels of {}", module.name))?;
    }
    Ok(())
}

/// Has a driver that loads lazily load a module's kernels now, if it knows how to (CUDA 12.4).
fn load_functions(module: sys::CUmodule) -> sys::CUresult {
    use sys::CUresult::CUDA_SUCCESS;
    if !["cuModuleGetFunctionCount", "cuModuleEnumerateFunctions", "cuFuncLoad"]
        .map(has)
        .iter()
        .all(|known| *known)
    {
        return CUDA_SUCCESS;
    }
    let mut count = 0;
    // SAFETY: the module is loaded in the current context; the calls write the count and as many
    // handles as it says.
    relaxed(|| unsafe {
        let mut result = sys::cuModuleGetFunctionCount(&mut count, module);
        let mut functions = vec![null_mut(); count as usize];
        if result == CUDA_SUCCESS {
            result = sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module);
        }
        for function in functions {
            if result == CUDA_SUCCESS {
                result = sys::cuFuncLoad(function);
            }
        }
        result
    })
}
