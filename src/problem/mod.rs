//! The only validator: a C description becomes a [`Problem`] that all later code trusts.

use crate::abi::*;
use crate::dtype::{Dtype, Typed};
use crate::error::{Error, Result};
use crate::settings::Mode;
use std::ffi::c_void;
use std::fmt;

/// Where the tensors of a problem lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda,
}

impl Device {
    /// Reads a device of the C API; `argument` names it in the error.
    pub fn from_c(value: kfa_device_type, argument: &str) -> Result<Self> {
        match value {
            KFA_DEVICE_CPU => Ok(Device::Cpu),
            KFA_DEVICE_CUDA => Ok(Device::Cuda),
            _ => Err(Error::invalid(format!(
                "{argument} is {value}; expected KFA_DEVICE_CPU (1) or KFA_DEVICE_CUDA (2)"
            ))),
        }
    }
}

/// A validated strided view of `[batch, rows, heads, head_dim]`, innermost stride 1.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub data: *mut u8,
    pub dtype: Dtype,
    /// Strides in elements.
    pub batch_stride: usize,
    pub row_stride: usize,
    pub head_stride: usize,
}

impl View {
    /// The elements of one head of one row.
    ///
    /// # Safety
    /// The view holds elements of type `E` and the indices are inside the problem's shape.
    #[inline(always)]
    pub unsafe fn head<E: Typed>(&self, batch: usize, row: usize, head: usize) -> *mut E {
        debug_assert_eq!(self.dtype, E::DTYPE);
        let offset = batch * self.batch_stride + row * self.row_stride + head * self.head_stride;
        // SAFETY: validation proved the whole view addressable; the caller keeps the indices in.
        unsafe { self.data.cast::<E>().add(offset) }
    }
}

/// A validated attention problem; see `kfa_attention_desc` for the meaning of each field.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub device: Device,
    pub mode: Mode,
    pub causal: bool,
    /// Whether the result must not depend on the number of threads.
    pub deterministic: bool,
    pub batch: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub query: View,
    pub key: View,
    pub value: View,
    pub output: View,
    /// `[batch, heads, q_len]`, or null.
    pub lse: *mut f32,
    pub workspace: *mut u8,
    pub workspace_size: usize,
    /// The newest row's position in device memory, or null. If set, `kv_len` is the capacity that
    /// the call is planned for, and the valid keys are the position and those before it.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    pub pos_device: *const i32,
    /// CUDA ordinal, if the caller names one.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    pub device_index: Option<i32>,
    /// CUDA stream.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    pub stream: *mut c_void,
}

// SAFETY: a problem only names memory; the caller of the C API vouches that the memory stays valid
// and unshared for the call, and each kernel gives every task its own rows of the output.
unsafe impl Send for Problem {}
// SAFETY: as above.
unsafe impl Sync for Problem {}

/// What the caller's signature calls its arguments, for the messages.
pub struct Names {
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub output: &'static str,
    pub workspace: &'static str,
    /// The engine's index into its caches; a description has none.
    pub layer: &'static str,
}

/// The names of `kfa_attention_desc`.
pub const DESC_NAMES: Names = Names {
    query: "query",
    key: "key",
    value: "value",
    output: "output",
    workspace: "workspace",
    layer: "layer_idx",
};

/// How much of a description to check.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Shapes, types and strides: enough to plan; data pointers may still be null.
    Shape,
    /// Everything that a launch needs.
    All,
}

impl Problem {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// How many keys (from key 0) query row `row` sees.
    #[inline(always)]
    pub fn visible_keys(&self, row: usize) -> usize {
        if self.causal { (self.kv_len + row + 1).saturating_sub(self.q_len) } else { self.kv_len }
    }

    /// Where the LSE of a row goes; null when none is wanted.
    pub fn lse_at(&self, batch: usize, head: usize, row: usize) -> *mut f32 {
        if self.lse.is_null() {
            return self.lse;
        }
        self.lse.wrapping_add((batch * self.heads + head) * self.q_len + row)
    }

    /// Validates a description. Reads nothing but the description itself.
    pub fn new(desc: &kfa_attention_desc, check: Check) -> Result<Self> {
        Self::named(desc, check, &DESC_NAMES)
    }

    /// As [`Problem::new`], with the caller's own names for its arguments.
    pub fn named(desc: &kfa_attention_desc, check: Check, names: &Names) -> Result<Self> {
        let device = Device::from_c(desc.device, "device")?;
        let mode = Mode::from_c(desc.mode, "mode")?;
        refuse_unimplemented(desc)?;
        let causal = match desc.is_causal {
            0 => false,
            1 => true,
            other => return Err(Error::invalid(format!("is_causal is {other}; expected 0 or 1"))),
        };
        if device == Device::Cpu && !desc.stream.is_null() {
            return Err(Error::invalid("stream is set; expected NULL on the CPU"));
        }
        let batch = positive(desc.batch, "batch")?;
        let q_len = positive(desc.q_len, "q_len")?;
        let kv_len = positive(desc.kv_len, "kv_len")?;
        let heads = positive(desc.heads, "heads")?;
        let kv_heads = positive(desc.kv_heads, "kv_heads")?;
        let head_dim = positive(desc.head_dim, "head_dim")?;
        if heads % kv_heads != 0 {
            return Err(Error::invalid(format!(
                "heads is {heads}; expected a multiple of kv_heads ({kv_heads})"
            )));
        }
        let scale = scale_or_default(desc.softmax_scale, head_dim)?;

        let query_shape = [batch, q_len, heads, head_dim];
        let kv_shape = [batch, kv_len, kv_heads, head_dim];
        let (query, query_span) = view(&desc.query, query_shape, names.query, check)?;
        let (key, key_span) = view(&desc.key, kv_shape, names.key, check)?;
        let (value, value_span) = view(&desc.value, kv_shape, names.value, check)?;
        let (output, output_span) = view(&desc.output, query_shape, names.output, check)?;
        refuse_self_overlap(&output, query_shape)?;

        let rows = batch
            .checked_mul(heads)
            .and_then(|n| n.checked_mul(q_len))
            .filter(|n| n.checked_mul(4).is_some_and(|bytes| bytes <= isize::MAX as usize))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "batch * heads * q_len ({batch} * {heads} * {q_len}) overflows the address space"
                ))
            })?;

        if check == Check::All {
            aligned(desc.lse.cast(), 4, "lse")?;
            aligned(desc.workspace.cast(), 4, names.workspace)?;
            aligned(desc.pos_device.cast(), 4, "pos_device")?;
            if desc.workspace.is_null() && desc.workspace_size > 0 {
                return Err(Error::invalid(format!(
                    "workspace is NULL; expected {} bytes as workspace_size says",
                    desc.workspace_size
                )));
            }
            let lse_span = Span::new(desc.lse.cast(), rows * 4);
            let workspace_span = Span::new(desc.workspace.cast(), desc.workspace_size);
            let pos_span = Span::new(desc.pos_device.cast(), 4);
            let inputs = [
                (names.query, query, query_span),
                (names.key, key, key_span),
                (names.value, value, value_span),
            ];
            for (name, input, span) in inputs {
                let in_place = name == names.query && same_view(&input, &output);
                if !in_place
                    && output_span.meets(span)
                    && !rows_interleave(
                        &output,
                        query_shape,
                        &input,
                        if name == names.query { query_shape } else { kv_shape },
                    )
                {
                    return Err(Error::invalid(format!(
                        "{} overlaps {name}; expected separate memory, or exactly the query view",
                        names.output
                    )));
                }
                for (writable, writable_span) in
                    [("lse", lse_span), (names.workspace, workspace_span)]
                {
                    if writable_span.meets(span) {
                        return Err(Error::invalid(format!(
                            "{writable} overlaps {name}; expected separate memory"
                        )));
                    }
                }
            }
            for (a, b, overlap) in [
                ("lse", names.output, lse_span.meets(output_span)),
                (names.workspace, names.output, workspace_span.meets(output_span)),
                (names.workspace, "lse", workspace_span.meets(lse_span)),
                (names.output, "pos_device", output_span.meets(pos_span)),
                ("lse", "pos_device", lse_span.meets(pos_span)),
                (names.workspace, "pos_device", workspace_span.meets(pos_span)),
            ] {
                if overlap {
                    return Err(Error::invalid(format!(
                        "{a} overlaps {b}; expected separate memory"
                    )));
                }
            }
        }

        Ok(Self {
            device,
            mode,
            causal,
            deterministic: desc.flags & KFA_FLAG_DETERMINISTIC != 0,
            batch,
            q_len,
            kv_len,
            heads,
            kv_heads,
            head_dim,
            scale,
            query,
            key,
            value,
            output,
            lse: desc.lse,
            workspace: desc.workspace.cast(),
            workspace_size: desc.workspace_size,
            pos_device: desc.pos_device,
            device_index: (desc.device_index >= 0).then_some(desc.device_index),
            stream: desc.stream,
        })
    }
}

/// Reads a size that must be at least 1.
pub fn positive(value: i32, name: &str) -> Result<usize> {
    if value < 1 {
        return Err(Error::invalid(format!("{name} is {value}; expected at least 1")));
    }
    Ok(value as usize)
}

/// Resolves the default of 0 and refuses what is not a number.
pub fn scale_or_default(scale: f32, head_dim: usize) -> Result<f32> {
    if !scale.is_finite() {
        return Err(Error::invalid(format!(
            "softmax_scale is {scale}; expected a finite number, or 0 for 1/sqrt(head_dim)"
        )));
    }
    Ok(if scale == 0.0 { 1.0 / (head_dim as f32).sqrt() } else { scale })
}

/// Checks a `struct_size` field against the one layout that this version knows.
pub fn check_struct_size(got: u32, expected: usize, name: &str) -> Result<()> {
    if got as usize != expected {
        return Err(Error::invalid(format!(
            "{name}.struct_size is {got}; expected {expected} (compile against the header of this library's version)"
        )));
    }
    Ok(())
}

/// Refuses, by name, what the description can say but no kernel does yet.
fn refuse_unimplemented(desc: &kfa_attention_desc) -> Result<()> {
    const KNOWN_FLAGS: u32 = KFA_FLAG_DETERMINISTIC | KFA_FLAG_BATCH_INVARIANT | KFA_FLAG_FAST_MATH;
    if desc.flags & !KNOWN_FLAGS != 0 {
        return Err(Error::invalid(format!(
            "flags is {:#x}; expected only KFA_FLAG_* bits ({KNOWN_FLAGS:#x})",
            desc.flags
        )));
    }
    if desc.device_index < -1 {
        return Err(Error::invalid(format!(
            "device_index is {}; expected -1 or a device ordinal",
            desc.device_index
        )));
    }
    if !(desc.softcap.is_finite() && desc.softcap >= 0.0) {
        return Err(Error::invalid(format!(
            "softcap is {}; expected a finite number, or 0 for none",
            desc.softcap
        )));
    }
    for (name, value) in [
        ("value_head_dim", desc.value_head_dim),
        ("sliding_window", desc.sliding_window),
        ("page_size", desc.page_size),
    ] {
        if value < 0 {
            return Err(Error::invalid(format!("{name} is {value}; expected 0 or more")));
        }
    }
    if !(KFA_MASK_NONE..=KFA_MASK_BOOLEAN).contains(&desc.mask.kind) {
        return Err(Error::invalid(format!(
            "mask.kind is {}; expected KFA_MASK_NONE (0), _ADDITIVE (1) or _BOOLEAN (2)",
            desc.mask.kind
        )));
    }
    if desc.reserved != 0 {
        return Err(Error::invalid(format!("reserved is {}; expected 0", desc.reserved)));
    }
    let requested = [
        ("KFA_FLAG_BATCH_INVARIANT", desc.flags & KFA_FLAG_BATCH_INVARIANT != 0),
        (
            "value_head_dim other than head_dim",
            desc.value_head_dim != 0 && desc.value_head_dim != desc.head_dim,
        ),
        ("softcap", desc.softcap != 0.0),
        ("sliding_window", desc.sliding_window != 0),
        ("mask", desc.mask.kind != KFA_MASK_NONE || !desc.mask.data.is_null()),
        ("alibi_slopes", !desc.alibi_slopes.is_null()),
        ("sinks", !desc.sinks.is_null()),
        ("query_offsets (variable-length queries)", !desc.query_offsets.is_null()),
        ("kv_offsets (variable-length keys)", !desc.kv_offsets.is_null()),
        ("kv_lens (key count per sequence)", !desc.kv_lens.is_null()),
        ("page_table (paged cache)", !desc.page_table.is_null() || desc.page_size != 0),
        ("key_scale (quantised keys)", !desc.key_scale.is_null()),
        ("value_scale (quantised values)", !desc.value_scale.is_null()),
        ("pos_device on the CPU", desc.device == KFA_DEVICE_CPU && !desc.pos_device.is_null()),
    ];
    match requested.iter().find(|(_, wanted)| *wanted) {
        Some((name, _)) => {
            Err(Error::unsupported(format!("{name} is not implemented in this version")))
        }
        None => Ok(()),
    }
}

fn dtype(value: kfa_dtype, name: &str) -> Result<Dtype> {
    match value {
        KFA_DTYPE_FP32 => Ok(Dtype::Fp32),
        KFA_DTYPE_FP16 => Ok(Dtype::Fp16),
        KFA_DTYPE_BF16 => Ok(Dtype::Bf16),
        KFA_DTYPE_INT8 | KFA_DTYPE_INT32 | KFA_DTYPE_FP8_E4M3 => Err(Error::unsupported(format!(
            "{name}.dtype is {value}, which attention is not implemented for; expected fp32"
        ))),
        _ => Err(Error::invalid(format!("{name}.dtype is {value}; expected a KFA_DTYPE_* value"))),
    }
}

/// Refuses an address that its elements cannot have.
pub fn aligned(data: *const u8, alignment: usize, name: impl fmt::Display) -> Result<()> {
    if !data.addr().is_multiple_of(alignment) {
        return Err(Error::invalid(format!(
            "{name} is {data:p}; expected an address aligned to its {alignment}-byte elements"
        )));
    }
    Ok(())
}

/// The bytes from a view's first element to its last.
#[derive(Clone, Copy)]
pub struct Span {
    start: usize,
    end: usize,
}

impl Span {
    pub fn new(data: *const u8, bytes: usize) -> Self {
        let start = data.addr();
        // A null pointer stands for an absent tensor, which meets nothing.
        Self { start, end: if start == 0 { 0 } else { start.saturating_add(bytes) } }
    }

    pub fn meets(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Validates one tensor view and measures its span.
fn view(c: &kfa_tensor_view, shape: [usize; 4], name: &str, check: Check) -> Result<(View, Span)> {
    let dtype = dtype(c.dtype, name)?;
    if c.reserved != 0 {
        return Err(Error::invalid(format!("{name}.reserved is {}; expected 0", c.reserved)));
    }
    let [batch, rows, heads, head_dim] = shape;
    let overflow = || {
        Error::invalid(format!(
            "{name} of shape [{batch}, {rows}, {heads}, {head_dim}] overflows the address space"
        ))
    };
    let mut strides = [c.batch_stride, c.row_stride, c.head_stride];
    if strides == [0; 3] {
        let row = heads.checked_mul(head_dim).ok_or_else(overflow)?;
        let sequence = row.checked_mul(rows).ok_or_else(overflow)?;
        strides = [sequence, row, head_dim].map(|stride| stride as i64);
    }
    let mut last = head_dim;
    for ((stride, axis), size) in
        strides.iter().zip(["batch", "row", "head"]).zip([batch, rows, heads])
    {
        if *stride < 0 {
            return Err(Error::invalid(format!(
                "{name}.{axis}_stride is {stride}; expected 0 or more"
            )));
        }
        let reach = usize::try_from(*stride).ok().and_then(|s| s.checked_mul(size - 1));
        last = reach.and_then(|reach| last.checked_add(reach)).ok_or_else(overflow)?;
    }
    let bytes = last
        .checked_mul(dtype.size())
        .filter(|bytes| *bytes <= isize::MAX as usize)
        .ok_or_else(overflow)?;
    let data: *mut u8 = c.data.cast();
    if check == Check::All {
        if data.is_null() {
            return Err(Error::invalid(format!("{name}.data is NULL; expected a tensor")));
        }
        data.addr().checked_add(bytes).ok_or_else(overflow)?;
        aligned(data, dtype.size(), format_args!("{name}.data"))?;
    }
    let [batch_stride, row_stride, head_stride] = strides.map(|stride| stride as usize);
    Ok((View { data, dtype, batch_stride, row_stride, head_stride }, Span::new(data, bytes)))
}

fn same_view(a: &View, b: &View) -> bool {
    (a.data, a.dtype, a.batch_stride, a.row_stride, a.head_stride)
        == (b.data, b.dtype, b.batch_stride, b.row_stride, b.head_stride)
}

/// Refuses an output whose own elements share memory: each axis must step over all finer ones.
fn refuse_self_overlap(output: &View, shape: [usize; 4]) -> Result<()> {
    let [batch, rows, heads, head_dim] = shape;
    let mut axes = [
        (output.batch_stride, batch, "batch"),
        (output.row_stride, rows, "row"),
        (output.head_stride, heads, "head"),
    ];
    axes.sort_by_key(|(stride, ..)| *stride);
    let mut covered = head_dim;
    for (stride, size, axis) in axes.into_iter().filter(|(_, size, _)| *size > 1) {
        if stride < covered {
            return Err(Error::invalid(format!(
                "output.{axis}_stride is {stride}; expected at least {covered}, as the output's elements must not share memory"
            )));
        }
        covered += stride * (size - 1);
    }
    Ok(())
}

/// Whether two views that share a range of addresses still touch different elements, because each
/// token of a fused buffer (query, key and value side by side) gives them different columns.
fn rows_interleave(a: &View, a_shape: [usize; 4], b: &View, b_shape: [usize; 4]) -> bool {
    let stride = a.row_stride * a.dtype.size();
    let whole_rows = |view: &View, shape: [usize; 4]| {
        view.row_stride * view.dtype.size() == stride
            && (shape[0] == 1
                || view.row_stride > 0 && view.batch_stride.is_multiple_of(view.row_stride))
    };
    if stride == 0 || !whole_rows(a, a_shape) || !whole_rows(b, b_shape) {
        return false;
    }
    let width = |view: &View, shape: [usize; 4]| {
        ((shape[2] - 1) * view.head_stride + shape[3]) * view.dtype.size()
    };
    // Where b's columns start, counted from a's within a token, whatever the buffer's own start.
    let offset =
        (b.data.addr() as isize - a.data.addr() as isize).rem_euclid(stride as isize) as usize;
    width(a, a_shape) <= offset && offset + width(b, b_shape) <= stride
}
