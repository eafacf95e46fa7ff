//! Calls that are wrong, or odd: each must be answered by a status, and a refusal writes nothing.

use crate::call::Call;
use crate::case::{Case, Strides};
use crate::library::library;
use crate::random::Random;
use kuiper_flash_attention::abi::*;
use std::ptr::null_mut;

/// What may come of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A refusal.
    Refusal,
    /// Any status but an internal error; the memory holds whatever is asked.
    Anything,
}

const SIZES: [i32; 6] = [0, -1, i32::MIN, i32::MAX, 0x4000_0000, 65_537];
const FLOATS: [f32; 9] =
    [f32::NAN, f32::INFINITY, -1.0, 1e-45, 1e-38, 3.4e38, -0.0, 1e-10, f32::NEG_INFINITY];

/// Changes one thing about a call's description.
fn mutate(call: &mut Call, random: &mut Random) -> (String, Expect) {
    let mut desc = call.desc;
    let change = change(&mut desc, &mut |array| call.keep(array), random);
    call.desc = desc;
    change
}

fn change(
    d: &mut kfa_attention_desc,
    keep: &mut dyn FnMut(&[i32]) -> *const i32,
    random: &mut Random,
) -> (String, Expect) {
    let negative = [-1, i32::MIN][random.below(2)];
    let none = [0, -1, i32::MIN][random.below(3)];
    let view = |d: &mut kfa_attention_desc, n: usize| -> *mut kfa_tensor_view {
        [&raw mut d.query, &raw mut d.key, &raw mut d.value, &raw mut d.output][n]
    };
    let which = random.below(4);
    // SAFETY: one of the description's views.
    let v = unsafe { &mut *view(d, which) };
    let kind = random.below(34);
    let refusal = match kind {
        0 => {
            let field = random.below(6);
            *[
                &mut d.batch,
                &mut d.q_len,
                &mut d.kv_len,
                &mut d.heads,
                &mut d.kv_heads,
                &mut d.head_dim,
            ][field] = none;
            format!("size {field} is {none}")
        }
        1 => {
            let field = random.below(8);
            *[
                &mut d.value_head_dim,
                &mut d.sliding_window,
                &mut d.window_right,
                &mut d.attention_chunk,
                &mut d.page_size,
                &mut d.pages,
                &mut d.threads,
                &mut d.split_keys,
            ][field] = negative;
            format!("count {field} is {negative}")
        }
        2 => {
            let field = random.below(5);
            *[&mut d.is_causal, &mut d.mode, &mut d.device, &mut d.mask.kind, &mut d.mask_newest]
                [field] = [77, -5, i32::MAX][random.below(3)];
            format!("unknown value of {field}")
        }
        3 => {
            d.flags |= 1 << 31;
            "unknown flag".into()
        }
        4 => {
            d.softmax_scale = random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            format!("softmax_scale {}", d.softmax_scale)
        }
        5 => {
            d.softcap = random.pick(&[f32::NAN, f32::INFINITY, -1.0]);
            format!("softcap {}", d.softcap)
        }
        6 => {
            v.data = null_mut();
            format!("no data {which}")
        }
        7 => {
            v.reserved = 1;
            format!("reserved of view {which}")
        }
        8 => {
            v.dtype = random.pick(&[KFA_DTYPE_UNKNOWN, 99, -1, KFA_DTYPE_INT32]);
            format!("dtype {} of view {which}", v.dtype)
        }
        9 => {
            *[&mut v.batch_stride, &mut v.row_stride, &mut v.head_stride][random.below(3)] =
                random.pick(&[-1, i64::MIN]);
            format!("negative stride of view {which}")
        }
        10 => {
            d.query.data = d.query.data.wrapping_byte_add(1);
            "query misaligned".into()
        }
        11 => {
            d.output.data = if random.chance(2) { d.key.data } else { d.value.data };
            d.output.batch_stride += 1;
            // With the batch's stride changed, it is no view of the query either.
            "output over the cache".into()
        }
        12 => {
            d.lse = d.query.data.cast();
            "lse over the query".into()
        }
        13 => {
            d.struct_size = random.pick(&[0, 1, 8, 100]);
            format!("struct_size {}", d.struct_size)
        }
        14 => {
            d.stream = 0x10 as *mut _;
            "stream on the CPU".into()
        }
        15 => {
            (d.workspace, d.workspace_size) = (null_mut(), 64);
            "workspace of nothing".into()
        }
        16 => {
            d.device_index = -2;
            "device_index -2".into()
        }
        17 => {
            // Not of the batch, which says how long the arrays are that tell lengths.
            (d.heads, d.kv_heads, d.head_dim) = (i32::MAX, i32::MAX, i32::MAX);
            "enormous sizes".into()
        }
        18 => {
            [v.batch_stride, v.row_stride, v.head_stride] = [i64::MAX; 3];
            let heads = if which == 0 || which == 3 { d.heads } else { d.kv_heads };
            // An axis of one entry is not stepped along.
            if heads == 1 {
                return ("perhaps enormous strides".into(), Expect::Anything);
            }
            "enormous strides".into()
        }
        19 => {
            (d.mask.kind, d.mask.data) = (KFA_MASK_BOOLEAN, null_mut());
            "mask without data".into()
        }
        20 => {
            d.mask.kind = KFA_MASK_NONE;
            d.mask_columns = 1;
            "columns of no mask".into()
        }
        21 => {
            d.reserved = 1;
            "reserved".into()
        }
        22 => {
            d.heads = 2 * d.kv_heads.max(2) + 1;
            d.kv_heads = d.kv_heads.max(2);
            "heads that kv_heads do not divide".into()
        }
        23 => {
            (d.page_size, d.pages) = (16, 0);
            "no pages".into()
        }
        24 => {
            d.lse_row_stride = -1;
            "negative lse stride".into()
        }
        25 => {
            let bad = random.pick(&[-1, d.kv_len.saturating_add(1), i32::MAX, i32::MIN]);
            d.kv_lens = keep(&vec![bad; d.batch as usize]);
            format!("kv_lens of {bad}")
        }
        26 => {
            let bad = random.pick(&[-1, d.q_len.saturating_add(1), i32::MAX, i32::MIN]);
            d.q_lens = keep(&vec![bad; d.batch as usize]);
            format!("q_lens of {bad}")
        }
        27 => {
            let mut offsets = vec![5; d.batch as usize + 1];
            offsets[d.batch as usize] = random.pick(&[4, -1, i32::MIN, i32::MAX]);
            d.query_offsets = keep(&offsets);
            "query_offsets that fall or leap".into()
        }
        // From here on odd rather than wrong.
        28 => {
            d.flags = random.next() as u32 & 15;
            return (format!("flags {}", d.flags), Expect::Anything);
        }
        29 => {
            let field = random.below(4);
            let value = random.pick(&SIZES);
            *[
                &mut d.sliding_window,
                &mut d.window_right,
                &mut d.attention_chunk,
                &mut d.split_keys,
            ][field] = value;
            return (format!("window {field} of {value}"), Expect::Anything);
        }
        30 => {
            d.is_causal = random.below(3) as i32;
            return (format!("is_causal {}", d.is_causal), Expect::Anything);
        }
        31 => {
            (d.softmax_scale, d.softcap) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let what = format!("softmax_scale {}, softcap {}", d.softmax_scale, d.softcap);
            return (what, Expect::Anything);
        }
        32 => {
            d.threads = random.pick(&[1, 2, 3, 40, 1000]);
            return (format!("threads {}", d.threads), Expect::Anything);
        }
        _ => {
            // Less of each axis; strides stay.
            d.q_len = 1 + random.below(d.q_len as usize) as i32;
            d.kv_len = 1 + random.below(d.kv_len as usize) as i32;
            d.batch = 1 + random.below(d.batch as usize) as i32;
            let what = format!("batch {}, q_len {}, kv_len {}", d.batch, d.q_len, d.kv_len);
            return (what, Expect::Anything);
        }
    };
    (refusal, Expect::Refusal)
}

/// A valid case with one thing changed; an error says what is wrong with the library.
pub fn run(case: &Case, seed: u64) -> Result<String, String> {
    let library = library();
    let random = &mut Random(seed);
    let mut case = case.clone();
    // Whatever becomes visible can be read.
    case.mapped = true;
    case.query_strides = Strides::Tokens;
    case.kv_strides = Strides::Tokens;
    case.output_strides = Strides::Tokens;
    let mut call = Call::new(case);
    let mut bytes = 0;
    // SAFETY: the call's memory is as its description says.
    unsafe { (library.kfa_attention_workspace_size)(&call.desc, &mut bytes) };
    call.give_workspace(bytes);
    let (what, expect) = mutate(&mut call, random);
    if std::env::var_os("KFA_FUZZ_VERBOSE").is_some() {
        eprintln!("{what}");
    }
    // SAFETY: whatever is wrong with the description, each array is there or refused.
    let (supported, status) = unsafe {
        let _ = library.explain(&call.desc);
        let supported = (library.kfa_attention_supported)(&call.desc);
        (supported, (library.kfa_attention_forward)(&call.desc))
    };
    let known = KFA_OK..KFA_ERROR_INTERNAL;
    if !known.contains(&status) || !known.contains(&supported) {
        let message = library.last_error();
        return Err(format!("{what}: forward answers {status}, supported {supported}: {message}"));
    }
    if expect == Expect::Refusal && status == KFA_OK {
        return Err(format!("{what}: accepted"));
    }
    if status != KFA_OK {
        if let Some(name) = call.anything_written() {
            return Err(format!("{what}: {name} was written"));
        }
        if library.last_error().is_empty() {
            return Err(format!("{what}: no message"));
        }
    }
    Ok(what)
}
