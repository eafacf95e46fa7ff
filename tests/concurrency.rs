//! Many threads call at once while the process's settings change under them; every result has the
//! bits that it has alone. ThreadSanitizer runs this test, too: `tools/test-sanitizers`.

use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::capi::attention::{
    kfa_attention_desc_init_sized, kfa_attention_explain, kfa_attention_forward,
};
use kuiper_flash_attention::capi::process::{
    kfa_last_error_message, kfa_set_log_callback, kfa_set_num_threads,
};
use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const HEADS: i32 = 4;
const DIM: i32 = 32;

unsafe extern "C-unwind" fn silent(_: kfa_log_level, _: *const c_char, _: *mut c_void) {}

/// Numbers that differ from call to call and from place to place.
fn numbers(count: i32, seed: i32) -> Vec<f32> {
    (0..count).map(|n| ((n * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect()
}

/// The bits of one call's output.
fn call(q_len: i32, kv_len: i32, seed: i32) -> Vec<u32> {
    let (mut query, mut key) =
        (numbers(q_len * HEADS * DIM, seed), numbers(kv_len * DIM, seed + 1));
    let mut value = numbers(kv_len * DIM, seed + 2);
    let mut output = vec![f32::NAN; query.len()];
    let mut workspace = vec![f32::NAN; 1 << 16];
    let mut desc = MaybeUninit::zeroed();
    // SAFETY: the description is filled by the library, then names arrays of the shapes that it says.
    let status = unsafe {
        let size = size_of::<kfa_attention_desc>();
        assert_eq!(kfa_attention_desc_init_sized(desc.as_mut_ptr(), size), KFA_OK);
        let mut desc: kfa_attention_desc = desc.assume_init();
        desc.flags = KFA_FLAG_DETERMINISTIC;
        (desc.q_len, desc.kv_len) = (q_len, kv_len);
        (desc.heads, desc.kv_heads, desc.head_dim) = (HEADS, 1, DIM);
        desc.query.data = query.as_mut_ptr().cast();
        desc.key.data = key.as_mut_ptr().cast();
        desc.value.data = value.as_mut_ptr().cast();
        desc.output.data = output.as_mut_ptr().cast();
        desc.workspace = workspace.as_mut_ptr().cast();
        desc.workspace_size = 4 * workspace.len();
        kfa_attention_forward(&desc)
    };
    assert_eq!(status, KFA_OK);
    output.into_iter().map(f32::to_bits).collect()
}

/// A failing call leaves this thread's message, whatever others fail at.
fn failing_call(heads: i32) {
    let mut desc = MaybeUninit::zeroed();
    // SAFETY: as in `call`; a description without memory is refused.
    unsafe {
        let size = size_of::<kfa_attention_desc>();
        assert_eq!(kfa_attention_desc_init_sized(desc.as_mut_ptr(), size), KFA_OK);
        let mut desc: kfa_attention_desc = desc.assume_init();
        (desc.q_len, desc.kv_len, desc.kv_heads, desc.head_dim) = (1, 1, 1, DIM);
        desc.heads = heads;
        let status = kfa_attention_explain(&desc, std::ptr::null_mut(), 0, std::ptr::null_mut());
        assert_eq!(status, KFA_ERROR_INVALID_ARGUMENT);
        let message = CStr::from_ptr(kfa_last_error_message()).to_str().unwrap();
        assert!(message.contains(&heads.to_string()), "{message}");
    }
}

#[test]
fn calls_at_once_have_the_bits_of_calls_alone() {
    let shapes = [(1, 900), (1, 3), (7, 120), (150, 150)];
    assert_eq!(kfa_set_num_threads(1), KFA_OK);
    let alone: Vec<_> = shapes.iter().map(|(q_len, kv_len)| call(*q_len, *kv_len, 5)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let settings = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                assert_eq!(kfa_set_num_threads(1 + n % 4), KFA_OK);
                let callback: kfa_log_callback = if n % 2 == 0 { Some(silent) } else { None };
                // SAFETY: the callback ignores its argument.
                unsafe { kfa_set_log_callback(callback, std::ptr::null_mut()) };
                thread::yield_now();
            }
        });
        let callers: Vec<_> = (0..6)
            .map(|n| {
                let alone = &alone;
                scope.spawn(move || {
                    for round in 0..12 {
                        let which = (n + round) % shapes.len();
                        let (q_len, kv_len) = shapes[which];
                        assert_eq!(call(q_len, kv_len, 5), alone[which], "{q_len} x {kv_len}");
                        failing_call(-1 - n as i32);
                    }
                })
            })
            .collect();
        let results: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        done.store(true, Ordering::Relaxed);
        settings.join().unwrap();
        results.into_iter().for_each(|result| result.unwrap());
    });
}
