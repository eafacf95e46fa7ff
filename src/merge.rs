//! Merging partial results over disjoint key sets: the combine step of split-KV as public API.

use crate::abi::*;
use crate::error::{Error, Result};
use crate::problem::{Device, Span, aligned, positive};
use crate::{cuda, dispatch};
use std::slice;

/// Merges `parts` partial outputs, each weighted by e^(its LSE - the largest LSE).
///
/// # Safety
/// The arrays are valid for the shapes that the description names.
pub unsafe fn merge(desc: &kfa_merge_desc) -> Result<()> {
    let device = Device::from_c(desc.device, "device")?;
    dispatch::available(device)?;
    let parts = positive(desc.parts, "parts")?;
    let batch = positive(desc.batch, "batch")?;
    let q_len = positive(desc.q_len, "q_len")?;
    let heads = positive(desc.heads, "heads")?;
    let head_dim = positive(desc.head_dim, "head_dim")?;
    if device == Device::Cpu && !desc.stream.is_null() {
        return Err(Error::invalid("stream is set; expected NULL on the CPU"));
    }
    refuse_unimplemented(desc)?;
    let fits = [q_len, heads, head_dim, 4]
        .iter()
        .try_fold(batch, |product, size| product.checked_mul(*size))
        .is_some_and(|bytes| bytes <= isize::MAX as usize);
    if !fits {
        return Err(Error::invalid(
            "batch * q_len * heads * head_dim overflows the address space".to_owned(),
        ));
    }
    for (name, is_null) in [
        ("outputs", desc.outputs.is_null()),
        ("lses", desc.lses.is_null()),
        ("output", desc.output.is_null()),
    ] {
        if is_null {
            return Err(Error::invalid(format!("{name} is NULL; expected an array")));
        }
    }
    // SAFETY: the caller vouches for `parts` pointers in each array.
    let (outputs, lses) = unsafe {
        (slice::from_raw_parts(desc.outputs, parts), slice::from_raw_parts(desc.lses, parts))
    };
    for (name, pointers) in [("outputs", outputs), ("lses", lses)] {
        if let Some(part) = pointers.iter().position(|pointer| pointer.is_null()) {
            return Err(Error::invalid(format!("{name}[{part}] is NULL; expected an array")));
        }
    }
    let rows = batch * heads * q_len;
    refuse_bad_memory(desc, outputs, lses, rows * head_dim * 4, rows * 4)?;
    let merge =
        Merge { outputs, lses, output: desc.output, lse: desc.lse, batch, q_len, heads, head_dim };
    match device {
        Device::Cpu => {
            // SAFETY: the caller's.
            unsafe { merge.run_on_cpu() };
            Ok(())
        }
        Device::Cuda => cuda::merge(&merge, desc.stream),
    }
}

/// Refuses what the description can say but no kernel does yet.
fn refuse_unimplemented(desc: &kfa_merge_desc) -> Result<()> {
    let float32 = |dtype| dtype == 0 || dtype == KFA_DTYPE_FP32;
    let strides = [
        desc.outputs_batch_stride,
        desc.outputs_row_stride,
        desc.outputs_head_stride,
        desc.output_batch_stride,
        desc.output_row_stride,
        desc.output_head_stride,
        desc.lses_batch_stride,
        desc.lses_head_stride,
        desc.lses_row_stride,
        desc.lse_batch_stride,
        desc.lse_head_stride,
        desc.lse_row_stride,
    ];
    if desc.flags & !KFA_FLAG_LSE_BASE2 != 0 {
        return Err(Error::invalid(format!(
            "flags is {:#x}; expected 0 or KFA_FLAG_LSE_BASE2",
            desc.flags
        )));
    }
    if desc.reserved != 0 {
        return Err(Error::invalid(format!("reserved is {}; expected 0", desc.reserved)));
    }
    for (name, asked) in [
        ("KFA_FLAG_LSE_BASE2", desc.flags != 0),
        ("outputs_dtype", !float32(desc.outputs_dtype)),
        ("output_dtype", !float32(desc.output_dtype)),
        ("a stride", strides != [0; 12]),
        ("part_offsets", !desc.part_offsets.is_null() || desc.part_rows != 0),
    ] {
        if asked {
            return Err(Error::unsupported(format!("{name} is not implemented in merges yet")));
        }
    }
    Ok(())
}

/// A validated merge.
pub struct Merge<'a> {
    /// `[batch, q_len, heads, head_dim]` each, in the device's memory.
    pub outputs: &'a [*const f32],
    /// `[batch, heads, q_len]` each.
    pub lses: &'a [*const f32],
    pub output: *mut f32,
    /// Null if none is wanted.
    pub lse: *mut f32,
    pub batch: usize,
    pub q_len: usize,
    pub heads: usize,
    pub head_dim: usize,
}

impl Merge<'_> {
    /// # Safety
    /// The arrays are valid for the shapes.
    unsafe fn run_on_cpu(&self) {
        let Merge { outputs, lses, batch, q_len, heads, head_dim, .. } = *self;
        let parts = outputs.len();
        for row in 0..batch * heads * q_len {
            let (sequence, head, position) =
                (row / (heads * q_len), row / q_len % heads, row % q_len);
            let start = ((sequence * q_len + position) * heads + head) * head_dim;
            // SAFETY: `row` and `start..start + head_dim` are inside the arrays' shapes. Every
            // element is read from all parts before it is written, so `output` may be one of them.
            unsafe {
                let part_lse = |part: usize| *lses[part].add(row);
                let max = (0..parts).map(part_lse).fold(f32::NEG_INFINITY, f32::max);
                // A row that no part has keys for keeps weight 0 everywhere, so its output is 0.
                let weight = |part| {
                    if max == f32::NEG_INFINITY { 0.0 } else { (part_lse(part) - max).exp() }
                };
                let sum: f32 = (0..parts).map(weight).sum();
                for d in start..start + head_dim {
                    let terms = (0..parts).filter(|part| weight(*part) > 0.0);
                    let total: f32 = terms.map(|part| weight(part) * *outputs[part].add(d)).sum();
                    *self.output.add(d) = if sum > 0.0 { total / sum } else { 0.0 };
                }
                if !self.lse.is_null() {
                    *self.lse.add(row) = if sum > 0.0 { max + sum.ln() } else { f32::NEG_INFINITY };
                }
            }
        }
    }
}

/// Refuses misaligned arrays, and results that overlap anything but exactly a part's own array.
fn refuse_bad_memory(
    desc: &kfa_merge_desc,
    outputs: &[*const f32],
    lses: &[*const f32],
    output_bytes: usize,
    lse_bytes: usize,
) -> Result<()> {
    aligned(desc.output.cast(), 4, "output")?;
    aligned(desc.lse.cast(), 4, "lse")?;
    let results = [
        ("output", desc.output.cast_const(), Span::new(desc.output.cast(), output_bytes)),
        ("lse", desc.lse.cast_const(), Span::new(desc.lse.cast(), lse_bytes)),
    ];
    for (list, bytes, pointers, own) in
        [("outputs", output_bytes, outputs, "output"), ("lses", lse_bytes, lses, "lse")]
    {
        for (part, pointer) in pointers.iter().enumerate() {
            aligned(pointer.cast(), 4, format_args!("{list}[{part}]"))?;
            let span = Span::new(pointer.cast(), bytes);
            for (result, start, result_span) in results {
                let in_place = result == own && start == *pointer;
                if !in_place && result_span.meets(span) {
                    return Err(Error::invalid(format!(
                        "{result} overlaps {list}[{part}]; expected separate memory, or exactly the part's own {own}"
                    )));
                }
            }
        }
    }
    if results[0].2.meets(results[1].2) {
        return Err(Error::invalid("lse overlaps output; expected separate memory"));
    }
    Ok(())
}
