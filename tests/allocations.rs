//! Calls allocate nothing once the library is warm: the threads' scratch is kept, and decode's team and
//! the kernels work in it. Only a long prefill hands each helper thread a small boxed job.

use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::capi::attention::{
    kfa_attention_desc_init_sized, kfa_attention_forward, kfa_attention_workspace_size,
};
use kuiper_flash_attention::capi::process::kfa_set_num_threads;
use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and their bytes in 20 calls after `warm` others.
fn allocations(q_len: i32, kv_len: i32, mode: kfa_attention_mode, warm: usize) -> (usize, usize) {
    let (heads, kv_heads, head_dim) = (8, 4, 64);
    let floats = |rows: i32, heads: i32| vec![0.25f32; (rows * heads * head_dim) as usize];
    let (mut query, mut output) = (floats(q_len, heads), floats(q_len, heads));
    let (mut key, mut value) = (floats(kv_len, kv_heads), floats(kv_len, kv_heads));
    let mut desc = MaybeUninit::uninit();
    // SAFETY: the description is filled by the library, then names arrays of the shapes it says.
    unsafe {
        assert_eq!(
            kfa_attention_desc_init_sized(desc.as_mut_ptr(), size_of::<kfa_attention_desc>()),
            KFA_OK
        );
        let mut desc: kfa_attention_desc = desc.assume_init();
        (desc.q_len, desc.kv_len, desc.mode) = (q_len, kv_len, mode);
        (desc.heads, desc.kv_heads, desc.head_dim) = (heads, kv_heads, head_dim);
        desc.query.data = query.as_mut_ptr().cast();
        desc.key.data = key.as_mut_ptr().cast();
        desc.value.data = value.as_mut_ptr().cast();
        desc.output.data = output.as_mut_ptr().cast();
        let mut bytes = 0;
        assert_eq!(kfa_attention_workspace_size(&desc, &mut bytes), KFA_OK);
        let mut workspace = vec![0.0f32; bytes / 4 + 1];
        (desc.workspace, desc.workspace_size) = (workspace.as_mut_ptr().cast(), bytes);
        let call = || assert_eq!(kfa_attention_forward(&desc), KFA_OK);
        // Every helper has come by and grown its scratch after a few calls with time to do so.
        for _ in 0..warm {
            call();
        }
        let before = (CALLS.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst));
        for _ in 0..20 {
            call();
        }
        (CALLS.load(Ordering::SeqCst) - before.0, BYTES.load(Ordering::SeqCst) - before.1)
    }
}

#[test]
fn warm_calls_do_not_allocate() {
    assert_eq!(kfa_set_num_threads(2), KFA_OK);
    for mode in [KFA_ATTENTION_MODE_FLASH, KFA_ATTENTION_MODE_STANDARD] {
        for (q_len, kv_len) in [(1, 100), (1, 5000), (9, 200)] {
            let found = allocations(q_len, kv_len, mode, 200);
            assert_eq!(found, (0, 0), "q_len {q_len}, kv_len {kv_len}, mode {mode}");
        }
    }
    // Long enough for the pool: one helper, one job a call, and a list of jobs now and then.
    let (calls, bytes) = allocations(520, 520, KFA_ATTENTION_MODE_FLASH, 20);
    assert!(calls <= 21 && bytes <= 20 * 64 + 4096, "{calls} allocations, {bytes} bytes");
}
