//! Strided tensors: their shape, the bytes that they span, elements that share memory.

use super::memory::Span;
use super::validator::{Validator, invalid, unsupported};
use crate::abi::*;
use crate::dtype::{Dtype, Typed};
use crate::error::{Refusal, Result, Status};

/// A validated strided view of `[batch, rows, heads, head_dim]`, innermost stride 1.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub data: *mut u8,
    pub dtype: Dtype,
    /// Strides in elements, or in blocks of a block type.
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

    /// Bytes of a stride; validation has seen that they are whole.
    pub fn bytes(&self, stride: usize) -> usize {
        self.dtype.stride_bytes(stride).unwrap_or(usize::MAX)
    }
}

/// Sizes of a view's axes: batch, rows, heads, elements of a head.
pub type Shape = [usize; 4];

/// A view, its shape and the memory it lies in.
#[derive(Clone, Copy)]
pub struct Placed {
    pub name: &'static str,
    pub view: View,
    pub shape: Shape,
    pub span: Span,
}

impl Placed {
    pub fn is_exactly(&self, other: &Placed) -> bool {
        let fields = |p: &Placed| {
            let View { data, dtype, batch_stride, row_stride, head_stride } = p.view;
            (data, dtype, batch_stride, row_stride, head_stride, p.shape)
        };
        fields(self) == fields(other)
    }

    /// Whether two views that share a range of addresses still touch different elements, because
    /// each token of a fused buffer (query, key and value side by side) gives them different columns.
    pub fn interleaves(&self, other: &Placed) -> bool {
        let stride = self.view.bytes(self.view.row_stride);
        let whole_rows = |p: &Placed| {
            p.view.bytes(p.view.row_stride) == stride
                && (p.shape[0] == 1
                    || p.view.row_stride > 0
                        && p.view.batch_stride.is_multiple_of(p.view.row_stride))
        };
        if stride == 0 || !whole_rows(self) || !whole_rows(other) {
            return false;
        }
        let width = |p: &Placed| {
            let head = p.view.bytes(p.shape[3] / p.view.dtype.stride_elements());
            (p.shape[2] - 1)
                .checked_mul(p.view.bytes(p.view.head_stride))
                .and_then(|heads| heads.checked_add(head))
        };
        // Where the other's columns start, counted from ours within a token, whatever the buffer's own
        // start.
        let distance = other.view.data.addr() as isize - self.view.data.addr() as isize;
        let offset = (distance as i128).rem_euclid(stride as i128) as usize;
        match (width(self), width(other)) {
            (Some(ours), Some(others)) => {
                ours <= offset && offset.checked_add(others).is_some_and(|end| end <= stride)
            }
            _ => false,
        }
    }
}

impl<E: Refusal> Validator<'_, E> {
    /// Validates one tensor view and measures its span.
    pub fn view(&self, c: &kfa_tensor_view, shape: Shape, name: &'static str) -> Result<Placed, E> {
        let Some(dtype) = Dtype::from_c(c.dtype) else {
            return if c.dtype == KFA_DTYPE_INT32 {
                unsupported(format_args!(
                    "{name}.dtype is {}, which attention is not implemented for; expected a float or quantised type",
                    c.dtype
                ))
            } else {
                invalid(format_args!("{name}.dtype is {}; expected a KFA_DTYPE_* value", c.dtype))
            };
        };
        if c.reserved != 0 {
            return invalid(format_args!("{name}.reserved is {}; expected 0", c.reserved));
        }
        let [batch, rows, heads, head_dim] = shape;
        let overflow = || {
            E::refuse(
                Status::InvalidArgument,
                format_args!(
                    "{name} of shape [{batch}, {rows}, {heads}, {head_dim}] overflows the address space"
                ),
            )
        };
        let (packed, _) = dtype.packing();
        if head_dim % packed != 0 {
            return invalid(format_args!(
                "{name} has {head_dim} elements per head; expected a multiple of {packed} for {dtype}"
            ));
        }
        let head = head_dim / dtype.stride_elements();
        let mut strides = [c.batch_stride, c.row_stride, c.head_stride];
        if strides == [0; 3] {
            let row = heads.checked_mul(head).ok_or_else(overflow)?;
            let sequence = row.checked_mul(rows).ok_or_else(overflow)?;
            strides = [sequence, row, head].map(|stride| stride as i64);
        }
        let mut last = head;
        for ((stride, axis), size) in
            strides.iter().zip(["batch", "row", "head"]).zip([batch, rows, heads])
        {
            if *stride < 0 {
                return invalid(format_args!(
                    "{name}.{axis}_stride is {stride}; expected 0 or more"
                ));
            }
            let stride = usize::try_from(*stride).map_err(|_| overflow())?;
            if packed / dtype.stride_elements() == 2 && stride % 2 == 1 {
                return invalid(format_args!(
                    "{name}.{axis}_stride is {stride}; expected an even number for {dtype}, which packs two elements in a byte"
                ));
            }
            let reach = stride.checked_mul(size - 1).ok_or_else(overflow)?;
            last = last.checked_add(reach).ok_or_else(overflow)?;
        }
        let bytes = dtype
            .stride_bytes(last)
            .filter(|bytes| *bytes <= isize::MAX as usize)
            .ok_or_else(overflow)?;
        let data: *mut u8 = c.data.cast();
        if self.all() {
            if data.is_null() {
                return invalid(format_args!("{name}.data is NULL; expected a tensor"));
            }
            data.addr().checked_add(bytes).ok_or_else(overflow)?;
            self.aligned(data, dtype.alignment(), format_args!("{name}.data"))?;
        }
        let [batch_stride, row_stride, head_stride] = strides.map(|stride| stride as usize);
        let view = View { data, dtype, batch_stride, row_stride, head_stride };
        Ok(Placed { name, view, shape, span: Span::new(data, bytes) })
    }
}

/// An axis of something written: its stride, its size, its name.
pub type Axis = (usize, usize, &'static str);

/// Refuses a result whose own elements share memory: each axis must step over all finer ones, of
/// which the finest covers `covered` elements.
pub fn refuse_self_overlap<E: Refusal>(
    name: &str,
    mut axes: [Axis; 3],
    mut covered: usize,
) -> Result<(), E> {
    axes.sort_by_key(|(stride, ..)| *stride);
    for (stride, size, axis) in axes.into_iter().filter(|(_, size, _)| *size > 1) {
        if stride < covered {
            return invalid(format_args!(
                "{name}{axis}_stride is {stride}; expected at least {covered}, as the elements of what is written must not share memory"
            ));
        }
        covered += stride * (size - 1);
    }
    Ok(())
}
