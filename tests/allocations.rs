//! Calls allocate nothing once the library is warm: the threads' scratch is kept, and decode's team and
//! the kernels work in it. Only a long prefill hands each helper thread a small boxed job.

use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::capi::attention::{
    kfa_attention_desc_init_sized, kfa_attention_forward, kfa_attention_supported,
    kfa_attention_workspace_size,
};
use kuiper_flash_attention::capi::kernels::kfa_get_mha_kernel;
use kuiper_flash_attention::capi::process::kfa_set_num_threads;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    /// Those of this thread: the test harness's own thread allocates as it starts to wait.
    static OWN_CALLS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Not those of the process's first thread: the test harness lives there, and allocates when a
        // test takes long.
        // SAFETY: it only asks for a number.
        if unsafe { libc::gettid() } as u32 != std::process::id() {
            CALLS.fetch_add(1, Ordering::Relaxed);
            BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        }
        let _ = OWN_CALLS.try_with(|calls| calls.set(calls.get() + 1));
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

/// A description of a prefill without any data.
fn shape_alone() -> kfa_attention_desc {
    let mut desc = MaybeUninit::uninit();
    // SAFETY: the library fills all of it.
    unsafe {
        let size = size_of::<kfa_attention_desc>();
        assert_eq!(kfa_attention_desc_init_sized(desc.as_mut_ptr(), size), KFA_OK);
        let mut desc: kfa_attention_desc = desc.assume_init();
        (desc.q_len, desc.kv_len) = (100, 100);
        (desc.heads, desc.kv_heads, desc.head_dim) = (8, 4, 64);
        desc
    }
}

/// Served, refused for a feature, refused for a size: hosts ask for every node of every graph.
fn asking_whether_a_problem_is_served_allocates_nothing() {
    let served = shape_alone();
    let fast_math = kfa_attention_desc { flags: KFA_FLAG_FAST_MATH, ..served };
    let invalid = kfa_attention_desc { heads: 7, ..served };
    for (desc, answer) in [
        (served, KFA_OK),
        (fast_math, KFA_ERROR_UNSUPPORTED),
        (invalid, KFA_ERROR_INVALID_ARGUMENT),
    ] {
        // SAFETY: a whole description without data.
        let ask = || unsafe { assert_eq!(kfa_attention_supported(&desc), answer) };
        ask();
        let before = OWN_CALLS.get();
        ask();
        assert_eq!(OWN_CALLS.get(), before, "asking allocates; the answer is {answer}");
    }
}

/// Engines ask the getter for every token and layer, and call what it gives, which brings its own
/// working memory.
fn the_engines_mha_kernel_allocates_nothing() {
    let (heads, kv_heads, head_size, seq_len) = (8, 4, 64, 5000);
    let kv_dim = kv_heads * head_size;
    let mut memory = [heads * head_size, heads * head_size, seq_len * kv_dim, seq_len * kv_dim]
        .map(|size| vec![0.25f32; size as usize]);
    let [output, query, key, value] = memory.each_mut().map(|floats| kfa_tensor {
        data: floats.as_mut_ptr().cast(),
        size: floats.len() as i64,
        dtype: KFA_DTYPE_FP32,
        device: KFA_DEVICE_CPU,
    });
    let score = std::ptr::null();
    let stream = std::ptr::null_mut();
    let mha = || {
        let kernel = kfa_get_mha_kernel(KFA_DEVICE_CPU).expect("the CPU has kernels");
        // SAFETY: the tensors are of the sizes that the numbers say.
        let status = unsafe {
            kernel(
                seq_len - 1,
                heads,
                0,
                seq_len,
                kv_dim,
                heads / kv_heads,
                head_size,
                &output,
                &query,
                score,
                &key,
                &value,
                KFA_DEVICE_CPU,
                stream,
            )
        };
        assert_eq!(status, KFA_OK);
    };
    (0..200).for_each(|_| mha());
    let before = CALLS.load(Ordering::SeqCst);
    (0..20).for_each(|_| mha());
    assert_eq!(CALLS.load(Ordering::SeqCst), before, "the MHA kernel allocates");
}

// One test, as all of the process's allocations are counted; on a thread of its own, as the harness may
// run a single test on the first.
#[test]
fn warm_calls_do_not_allocate() {
    std::thread::spawn(count_warm_calls).join().unwrap();
}

fn count_warm_calls() {
    asking_whether_a_problem_is_served_allocates_nothing();
    assert_eq!(kfa_set_num_threads(2), KFA_OK);
    for mode in [KFA_ATTENTION_MODE_FLASH, KFA_ATTENTION_MODE_STANDARD] {
        for (q_len, kv_len) in [(1, 100), (1, 5000), (9, 200)] {
            let found = allocations(q_len, kv_len, mode, 200);
            assert_eq!(found, (0, 0), "q_len {q_len}, kv_len {kv_len}, mode {mode}");
        }
    }
    the_engines_mha_kernel_allocates_nothing();
    // Long enough for the pool: one helper, one job a call, and a list of jobs now and then.
    let (calls, bytes) = allocations(520, 520, KFA_ATTENTION_MODE_FLASH, 20);
    assert!(calls <= 21 && bytes <= 20 * 64 + 4096, "{calls} allocations, {bytes} bytes");
}
