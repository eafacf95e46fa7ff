//! Device memory for calls that bring no workspace.

use super::context::{make_current, relaxed};
use super::launch::Gpu;
use super::probe::{Device, driver};
use super::result::check;
use crate::error::Result;
use cudarc::driver::sys::{self, CUdeviceptr, CUresult, CUstream};
use std::sync::{Mutex, PoisonError};

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
        let (context, stream) = (gpu.context.id(), stream_key(gpu.stream));
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
