//! Kernels and their launches.

use super::context::{Context, Pushed, device_of, loading, make_current, number_kernel, relaxed};
use super::place::{Pointer, pointers_of};
use super::probe::Device;
use super::result::check;
use crate::cuda::caps::Caps;
use crate::cuda::params::Params;
use crate::error::Result;
use crate::problem::Problem;
use cudarc::driver::sys::{self, CUresult, CUstream};
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A kernel's entry point; a `static` in the algorithm's file.
pub struct Kernel {
    module: &'static str,
    name: &'static CStr,
    /// Where contexts keep their handles of it; 0 until it is first used.
    number: AtomicUsize,
}

impl Kernel {
    /// The name ends with a 0 byte, as `concat!` can make it.
    pub const fn new(module: &'static str, name: &'static str) -> Self {
        let Ok(name) = CStr::from_bytes_with_nul(name.as_bytes()) else {
            panic!("a kernel's name ends with a 0 byte");
        };
        Self { module, name, number: AtomicUsize::new(0) }
    }

    fn handle(&self, gpu: &Gpu) -> Result<sys::CUfunction> {
        let number = self.number.load(Ordering::Relaxed);
        let handle = gpu.context.kernel(number).load(Ordering::Acquire);
        if handle.is_null() { self.load(gpu) } else { Ok(handle) }
    }

    #[cold]
    fn load(&self, gpu: &Gpu) -> Result<sys::CUfunction> {
        use sys::CUfunction_attribute_enum::*;
        let _guard = loading();
        let mut number = self.number.load(Ordering::Relaxed);
        if number == 0 {
            number = number_kernel()?;
            self.number.store(number, Ordering::Relaxed);
        }
        let module = gpu.context.module(self.module)?;
        let what = format!("loading kernel {}", self.name.to_string_lossy());
        let mut function = null_mut();
        let mut fixed = 0;
        relaxed(|| {
            // SAFETY: the module is loaded in the current context; one handle is written.
            let result =
                unsafe { sys::cuModuleGetFunction(&mut function, module, self.name.as_ptr()) };
            check(result, &what)?;
            // SAFETY: the function was just found; one number is written.
            let result = unsafe {
                sys::cuFuncGetAttribute(&mut fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function)
            };
            check(result, &what)?;
            let set = |attribute, value| {
                // SAFETY: the function was just found.
                check(unsafe { sys::cuFuncSetAttribute(function, attribute, value) }, &what)
            };
            if gpu.caps().clusters {
                // Clusters of up to 16 blocks, twice what every device with clusters runs.
                set(CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)?;
            }
            // Any dynamic shared memory that a launch asks for is permitted from here on. Setting
            // an attribute also makes a lazily loading driver load the kernel now.
            let shared = gpu.caps().shared_per_block as i32 - fixed;
            set(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
        })?;
        gpu.context.kernel(number).store(function, Ordering::Release);
        Ok(function)
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory, up to [`Caps::shared_per_block`] less what the kernel declares
    /// itself; nothing need be done for more than 48 KB.
    pub shared: u32,
    /// Blocks of a cluster along x, y and z, each a divisor of the grid's; all 1 for none. More only
    /// where [`Caps::clusters`] says so.
    pub cluster: [u32; 3],
    /// Programmatic dependent launch: the kernel may start while its predecessor on the stream
    /// ends, and itself waits (`griddepcontrol.wait`) before it reads what that wrote. Ignored
    /// where [`Caps::clusters`] is false, as the wait is none there either.
    pub dependent: bool,
}

impl Launch {
    pub const DEFAULT: Launch =
        Launch { grid: [1; 3], block: 1, shared: 0, cluster: [1; 3], dependent: false };
}

/// What a kernel takes by value.
///
/// # Safety
/// The type has the layout, size and alignment of the kernel's own.
pub unsafe trait KernelParam {}

// SAFETY: repr(C), and both sides assert the size.
unsafe impl KernelParam for Params {}

/// The most parameters of a kernel.
const MAX_PARAMS: usize = 8;

/// A device to enqueue on: its context is current while this lives.
pub struct Gpu {
    pub(super) device: &'static Device,
    pub(super) context: &'static Context,
    pub(super) stream: CUstream,
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
        self.device.caps()
    }

    /// Enqueues zeros: `bytes`, in words of four.
    pub fn zero(&self, data: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller of the C API vouches for the workspace; the context is current.
        let result =
            unsafe { sys::cuMemsetD32Async(data as sys::CUdeviceptr, 0, bytes / 4, self.stream) };
        check(result, "zeroing the workspace's counters")
    }

    /// Enqueues a kernel on the caller's stream.
    ///
    /// `params` are the kernel's, each by value and in its order: usually one struct, as in
    /// `__global__ void kernel(const __grid_constant__ KfaAttentionParams p)`, launched with
    /// `&[&params]`. A kernel that reads by TMA takes its maps behind it,
    /// `const __grid_constant__ CUtensorMap query, …`, launched with `&[&params, &query, …]`: see
    /// [`TensorMap`](super::TensorMap). The driver copies them before this returns, and a captured
    /// graph keeps its copy.
    pub fn launch(
        &self,
        kernel: &Kernel,
        launch: Launch,
        params: &[&dyn KernelParam],
    ) -> Result<()> {
        let function = kernel.handle(self)?;
        let Launch { grid: [x, y, z], block, shared, cluster, dependent } = launch;
        let clusters = self.caps().clusters;
        let mut values = [null_mut(); MAX_PARAMS];
        for (value, param) in values[..params.len()].iter_mut().zip(params) {
            *value = (&raw const **param).cast_mut().cast::<c_void>();
        }
        let mut attributes = [NO_ATTRIBUTE; 2];
        let mut count = 0;
        let mut add = |attribute| {
            attributes[count] = attribute;
            count += 1;
        };
        if cluster != [1; 3] {
            // A kernel compiled without clusters would take each block for a whole one.
            debug_assert!(clusters, "{:?} in clusters", kernel.name);
            add(attribute_cluster(cluster));
        }
        if dependent && clusters {
            add(attribute_dependent());
        }
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
            numAttrs: count as u32,
        };
        // SAFETY: the handle belongs to the current context; the configuration lives until the call
        // returns, and the driver copies as many values as the kernel has parameters, of its types.
        let result =
            unsafe { sys::cuLaunchKernelEx(&config, function, values.as_mut_ptr(), null_mut()) };
        if result == CUresult::CUDA_SUCCESS {
            return Ok(());
        }
        check(result, &format!("launching {} as {launch:?}", kernel.name.to_string_lossy()))
    }
}

// SAFETY: all bit patterns are valid for a C struct of integers; zero means nothing set.
const NO_ATTRIBUTE: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };

fn attribute_cluster([x, y, z]: [u32; 3]) -> sys::CUlaunchAttribute {
    let mut attribute = NO_ATTRIBUTE;
    attribute.id = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim.x = x;
    attribute.value.clusterDim.y = y;
    attribute.value.clusterDim.z = z;
    attribute
}

fn attribute_dependent() -> sys::CUlaunchAttribute {
    let mut attribute = NO_ATTRIBUTE;
    attribute.id =
        sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    attribute
}
