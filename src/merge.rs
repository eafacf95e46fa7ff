//! The only validator of merges: a C description of partial results over disjoint key sets becomes a
//! [`Merge`] that the backends trust.

use crate::abi::*;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::problem::{Device, Span, aligned, extent, positive, refuse_self_overlap};
use std::ffi::c_void;
use std::slice;

/// A validated merge. Output and parts are `[batch, q_len, heads, head_dim]`, LSEs
/// `[batch, q_len, heads]` by strides.
pub struct Merge<'a> {
    pub device: Device,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    pub stream: *mut c_void,
    pub batch: usize,
    pub q_len: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub outputs: &'a [*const c_void],
    pub outputs_layout: Layout,
    pub lses: &'a [*const f32],
    pub lses_layout: Layout,
    pub output: *mut c_void,
    pub output_layout: Layout,
    /// Null if none is wanted.
    pub lse: *mut f32,
    pub lse_layout: Layout,
    /// Whether LSEs are logarithms to base 2 instead of e.
    pub base2: bool,
    /// Where each row's parts lie in the one array of parts; null where row and part have the same
    /// place in every array.
    pub part_offsets: *const i32,
    /// The most parts of any row.
    pub most_parts: usize,
}

// SAFETY: plain data; whoever reads and writes through the pointers does so in unsafe code.
unsafe impl Sync for Merge<'_> {}

/// An array's element type, and the elements from one batch entry, row and head to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub dtype: Dtype,
    pub batch: usize,
    pub row: usize,
    pub head: usize,
}

impl Layout {
    #[inline(always)]
    pub fn offset(&self, batch: usize, row: usize, head: usize) -> usize {
        batch * self.batch + row * self.row + head * self.head
    }
}

impl<'a> Merge<'a> {
    /// Validates a description.
    ///
    /// # Safety
    /// The arrays of pointers are valid for `parts`, and on the CPU `part_offsets` is for the rows.
    pub unsafe fn new(desc: &kfa_merge_desc) -> Result<Self> {
        let device = Device::from_c(desc.device, "device")?;
        let parts = positive(desc.parts, "parts")?;
        let batch = positive(desc.batch, "batch")?;
        let q_len = positive(desc.q_len, "q_len")?;
        let heads = positive(desc.heads, "heads")?;
        let head_dim = positive(desc.head_dim, "head_dim")?;
        if device == Device::Cpu && !desc.stream.is_null() {
            return Err(Error::invalid("stream is set; expected NULL on the CPU"));
        }
        if desc.flags & !KFA_FLAG_LSE_BASE2 != 0 {
            let flags = desc.flags;
            return Err(Error::invalid(format!(
                "flags is {flags:#x}; expected 0 or KFA_FLAG_LSE_BASE2"
            )));
        }
        if desc.reserved != 0 {
            return Err(Error::invalid(format!("reserved is {}; expected 0", desc.reserved)));
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
        let shape = [batch, q_len, heads];
        let ragged = !desc.part_offsets.is_null();
        let parts_shape = if ragged {
            if parts != 1 {
                return Err(Error::invalid(format!(
                    "parts is {parts}; expected 1 with part_offsets, which tells each row's own"
                )));
            }
            [1, positive(desc.part_rows, "part_rows")?, heads]
        } else if desc.part_rows != 0 {
            return Err(Error::invalid(format!(
                "part_rows is {}; expected 0 without part_offsets",
                desc.part_rows
            )));
        } else {
            shape
        };

        // SAFETY: the caller vouches for `parts` pointers in each array.
        let (outputs, lses) = unsafe {
            let outputs: *const *const c_void = desc.outputs.cast();
            (slice::from_raw_parts(outputs, parts), slice::from_raw_parts(desc.lses, parts))
        };
        let d = desc;
        let [parts_array, lses_array, output, lse] = [
            Array {
                name: "outputs",
                dtype: dtype(d.outputs_dtype, "outputs_dtype")?,
                strides: [d.outputs_batch_stride, d.outputs_row_stride, d.outputs_head_stride],
                order: [0, 1, 2],
                shape: parts_shape,
                width: head_dim,
            },
            Array {
                name: "lses",
                dtype: Dtype::Fp32,
                strides: [d.lses_batch_stride, d.lses_row_stride, d.lses_head_stride],
                order: [0, 2, 1],
                shape: parts_shape,
                width: 1,
            },
            Array {
                name: "output",
                dtype: dtype(d.output_dtype, "output_dtype")?,
                strides: [d.output_batch_stride, d.output_row_stride, d.output_head_stride],
                order: [0, 1, 2],
                shape,
                width: head_dim,
            },
            Array {
                name: "lse",
                dtype: Dtype::Fp32,
                strides: [d.lse_batch_stride, d.lse_row_stride, d.lse_head_stride],
                order: [0, 2, 1],
                shape,
                width: 1,
            },
        ];
        let (outputs_layout, outputs_bytes) = parts_array.layout()?;
        let (lses_layout, lses_bytes) = lses_array.layout()?;
        let (output_layout, output_bytes) = output.layout()?;
        let (lse_layout, lse_bytes) = lse.layout()?;
        output.refuse_shared_elements(output_layout)?;
        lse.refuse_shared_elements(lse_layout)?;

        let mut read = Vec::with_capacity(2 * parts + 1);
        for (part, (output, lse)) in outputs.iter().zip(lses).enumerate() {
            let in_place = !ragged && output_layout == outputs_layout && *output == d.output.cast();
            read.push(Read {
                span: span(
                    *output,
                    outputs_bytes,
                    outputs_layout,
                    format_args!("outputs[{part}]"),
                )?,
                name: ("outputs", part),
                may_be: in_place.then_some("output"),
            });
            let in_place = !ragged && lse_layout == lses_layout && *lse == d.lse.cast_const();
            read.push(Read {
                span: span(lse.cast(), lses_bytes, lses_layout, format_args!("lses[{part}]"))?,
                name: ("lses", part),
                may_be: in_place.then_some("lse"),
            });
        }
        let output_span = span(d.output.cast(), output_bytes, output_layout, "output")?;
        let lse_span = match d.lse.is_null() {
            true => Span::NONE,
            false => span(d.lse.cast(), lse_bytes, lse_layout, "lse")?,
        };
        let offsets = batch.checked_mul(q_len).and_then(|rows| rows.checked_add(1));
        let offsets = offsets.ok_or_else(|| overflow("part_offsets"))?;
        if ragged {
            let bytes = offsets.checked_mul(4).ok_or_else(|| overflow("part_offsets"))?;
            aligned(d.part_offsets.cast(), 4, "part_offsets")?;
            let span = Span::new(d.part_offsets.cast(), bytes);
            read.push(Read { span, name: ("part_offsets", 0), may_be: None });
        }
        refuse_overlaps(output_span, lse_span, &read)?;

        let most_parts = match (ragged, device) {
            (false, _) => parts,
            // SAFETY: on the CPU the caller vouches for as many numbers.
            (true, Device::Cpu) => {
                // SAFETY: the caller vouches for one entry more than there are rows.
                let offsets = unsafe { slice::from_raw_parts(d.part_offsets, offsets) };
                most_parts(offsets, parts_shape[1])?
            }
            // They lie on the device, where only the kernel sees them.
            (true, Device::Cuda) => parts_shape[1],
        };
        Ok(Merge {
            device,
            stream: desc.stream,
            batch,
            q_len,
            heads,
            head_dim,
            outputs,
            outputs_layout,
            lses,
            lses_layout,
            output: d.output.cast(),
            output_layout,
            lse: d.lse,
            lse_layout,
            base2: d.flags & KFA_FLAG_LSE_BASE2 != 0,
            part_offsets: d.part_offsets,
            most_parts,
        })
    }
}

fn dtype(value: kfa_dtype, name: &str) -> Result<Dtype> {
    match Dtype::from_c(value).filter(|dtype| dtype.is_float()) {
        Some(dtype) => Ok(dtype),
        None if value == 0 => Ok(Dtype::Fp32),
        None => Err(Error::invalid(format!(
            "{name} is {value}; expected 0 or KFA_DTYPE_FP32, _FP16 or _BF16"
        ))),
    }
}

fn overflow(name: &str) -> Error {
    Error::invalid(format!("{name} overflows the address space"))
}

/// An array as the description has it; axes are batch, row and head.
struct Array {
    name: &'static str,
    dtype: Dtype,
    strides: [i64; 3],
    /// The axes from the outermost to the innermost where the array is packed.
    order: [usize; 3],
    shape: [usize; 3],
    /// Elements of a head.
    width: usize,
}

const AXES: [&str; 3] = ["batch", "row", "head"];

impl Array {
    /// The layout, and the bytes from the first element to the last.
    fn layout(&self) -> Result<(Layout, usize)> {
        let overflow = || overflow(self.name);
        let mut strides = [0; 3];
        if self.strides == [0; 3] {
            let mut packed = self.width;
            for axis in self.order.into_iter().rev() {
                strides[axis] = packed;
                packed = packed.checked_mul(self.shape[axis]).ok_or_else(overflow)?;
            }
        } else {
            for ((to, from), axis) in strides.iter_mut().zip(self.strides).zip(AXES) {
                if from < 0 {
                    return Err(Error::invalid(format!(
                        "{}_{axis}_stride is {from}; expected 0 or more",
                        self.name
                    )));
                }
                *to = usize::try_from(from).map_err(|_| overflow())?;
            }
        }
        let [batch, row, head] = strides;
        let axes = [(batch, self.shape[0]), (row, self.shape[1]), (head, self.shape[2])];
        let bytes = extent(&axes)
            .and_then(|last| last.checked_add(self.width - 1)?.checked_mul(self.dtype.size()))
            .filter(|bytes| *bytes <= isize::MAX as usize)
            .ok_or_else(overflow)?;
        Ok((Layout { dtype: self.dtype, batch, row, head }, bytes))
    }

    /// Refuses a result whose own elements share memory.
    fn refuse_shared_elements(&self, layout: Layout) -> Result<()> {
        let [batch, rows, heads] = self.shape;
        let axes = [
            (layout.batch, batch, AXES[0]),
            (layout.row, rows, AXES[1]),
            (layout.head, heads, AXES[2]),
        ];
        refuse_self_overlap(&format!("{}_", self.name), axes, self.width)
    }
}

/// The memory of an array, which must be there.
fn span(
    data: *const c_void,
    bytes: usize,
    layout: Layout,
    name: impl std::fmt::Display,
) -> Result<Span> {
    if data.is_null() {
        return Err(Error::invalid(format!("{name} is NULL; expected an array")));
    }
    aligned(data.cast(), layout.dtype.alignment(), &name)?;
    if data.addr().checked_add(bytes).is_none() {
        return Err(overflow(&name.to_string()));
    }
    Ok(Span::new(data.cast(), bytes))
}

/// Memory that a merge reads.
struct Read {
    span: Span,
    name: (&'static str, usize),
    /// The result that is exactly this array.
    may_be: Option<&'static str>,
}

/// Refuses results that overlap each other, or anything read but exactly a part's own array.
fn refuse_overlaps(output: Span, lse: Span, read: &[Read]) -> Result<()> {
    for (result, span) in [("output", output), ("lse", lse)] {
        for other in read {
            if other.may_be != Some(result) && span.meets(other.span) {
                let (list, part) = other.name;
                return Err(Error::invalid(format!(
                    "{result} overlaps {list}[{part}]; expected separate memory, or exactly a part's own {result}"
                )));
            }
        }
    }
    if lse.meets(output) {
        return Err(Error::invalid("lse overlaps output; expected separate memory"));
    }
    Ok(())
}

/// The most parts of any row, where `offsets` bound each row's.
fn most_parts(offsets: &[i32], part_rows: usize) -> Result<usize> {
    let mut most = 0;
    let mut last = 0;
    for (index, offset) in offsets.iter().enumerate() {
        if *offset < last || *offset as usize > part_rows {
            return Err(Error::invalid(format!(
                "part_offsets[{index}] is {offset}; expected {last} to part_rows ({part_rows})"
            )));
        }
        if index > 0 {
            most = most.max((offset - last) as usize);
        }
        last = *offset;
    }
    Ok(most)
}
