//! The rest of a decoding step that one call may do: norm, rotary embedding, append.
#![allow(dead_code, reason = "kernels that serve the fused step read it")]

use super::memory::{Arrays, extent};
use super::validator::{Validator, invalid};
use super::view::{Placed, View};
use crate::abi::*;
use crate::dtype::Dtype;
use crate::error::{Refusal, Result};
use crate::sized;
use std::ptr::null;

/// RMS norm of queries and new keys.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub dtype: Dtype,
    /// `[head_dim]`; null leaves queries, or keys, as they are.
    pub query_weight: *const u8,
    pub key_weight: *const u8,
    pub epsilon: f32,
}

/// Rotary embedding of queries and new keys.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    pub interleaved: bool,
    /// Elements `offset..offset + rotary_dim` of a head are turned.
    pub rotary_dim: usize,
    pub offset: usize,
    pub dtype: Dtype,
    /// A token's row of the tables is its place among the call's rows, not its position.
    pub by_row: bool,
    /// `[rows, rotary_dim / 2]`.
    pub cos: *const u8,
    pub sin: *const u8,
    pub row_stride: usize,
    pub rows: usize,
}

/// New keys and values, and where they go.
#[derive(Clone, Copy, Debug)]
pub struct Append {
    pub key: View,
    pub value: View,
    /// Null for each sequence's newest rows.
    pub slots: *const i64,
}

const NO_NORM: kfa_norm = kfa_norm {
    struct_size: size_of::<kfa_norm>() as u32,
    dtype: 0,
    query_weight: null(),
    key_weight: null(),
    epsilon: 0.0,
    reserved: 0,
};

const NO_ROPE: kfa_rope = kfa_rope {
    struct_size: size_of::<kfa_rope>() as u32,
    style: KFA_ROPE_NEOX,
    rotary_dim: 0,
    offset: 0,
    dtype: 0,
    by_row: 0,
    cos: null(),
    sin: null(),
    row_stride: 0,
    rows: 0,
    reserved: 0,
};

const NO_APPEND: kfa_append = kfa_append {
    struct_size: size_of::<kfa_append>() as u32,
    reserved: 0,
    key: NO_VIEW,
    value: NO_VIEW,
    slots: null(),
};

impl<E: Refusal> Validator<'_, E> {
    /// # Safety
    /// The description's pointer is null or leads to a struct that is as its size says.
    pub unsafe fn norm(&self, head_dim: usize, arrays: &mut Arrays) -> Result<Option<Norm>, E> {
        if self.desc.norm.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's.
        let c = unsafe { sized::read(self.desc.norm, &NO_NORM, size_of::<kfa_norm>(), "norm")? };
        self.reserved(c.reserved, "norm->reserved")?;
        let dtype = self.float_type(c.dtype, "norm->dtype")?;
        if !(c.epsilon.is_finite() && c.epsilon >= 0.0) {
            return invalid(format_args!("norm->epsilon is {}; expected 0 or more", c.epsilon));
        }
        if !c.key_weight.is_null() && self.desc.append.is_null() {
            return invalid(format_args!(
                "norm->key_weight is set without append; expected NULL, as only new keys are normed"
            ));
        }
        for (name, weight) in
            [("norm->query_weight", c.query_weight), ("norm->key_weight", c.key_weight)]
        {
            self.array(arrays, name, weight.cast::<u8>(), dtype.size(), Some(head_dim))?;
        }
        Ok(Some(Norm {
            dtype,
            query_weight: c.query_weight.cast(),
            key_weight: c.key_weight.cast(),
            epsilon: c.epsilon,
        }))
    }

    /// `rows`: the call's query rows, which `by_row` counts.
    ///
    /// # Safety
    /// As [`Self::norm`].
    pub unsafe fn rope(
        &self,
        head_dim: usize,
        kv_len: usize,
        rows: usize,
        arrays: &mut Arrays,
    ) -> Result<Option<Rope>, E> {
        if self.desc.rope.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's.
        let c = unsafe { sized::read(self.desc.rope, &NO_ROPE, size_of::<kfa_rope>(), "rope")? };
        self.reserved(c.reserved, "rope->reserved")?;
        for (name, value) in [("rope->style", c.style), ("rope->by_row", c.by_row)] {
            if !(0..=1).contains(&value) {
                return invalid(format_args!("{name} is {value}; expected 0 or 1"));
            }
        }
        let dtype = self.float_type(c.dtype, "rope->dtype")?;
        self.not_negative(c.rotary_dim, "rope->rotary_dim")?;
        self.not_negative(c.offset, "rope->offset")?;
        let offset = c.offset as usize;
        let rotary_dim = if c.rotary_dim == 0 { head_dim } else { c.rotary_dim as usize };
        if rotary_dim % 2 == 1 || offset + rotary_dim > head_dim {
            return invalid(format_args!(
                "rope->rotary_dim is {rotary_dim} from element {offset} on; expected an even number within head_dim ({head_dim})"
            ));
        }
        if c.row_stride < 0 {
            return invalid(format_args!(
                "rope->row_stride is {}; expected 0 or more",
                c.row_stride
            ));
        }
        let row_stride = if c.row_stride == 0 { rotary_dim / 2 } else { c.row_stride as usize };
        let by_row = c.by_row == 1;
        let needed = if by_row { rows } else { kv_len };
        if c.rows < 1 || (c.rows as usize) < needed {
            return invalid(format_args!(
                "rope->rows is {}; expected at least {needed}, one for each {}",
                c.rows,
                if by_row { "query row" } else { "position" }
            ));
        }
        let rows = c.rows as usize;
        let elements = extent(&[(row_stride, rows), (1, rotary_dim / 2)]);
        for (name, table) in [("rope->cos", c.cos), ("rope->sin", c.sin)] {
            if self.all() && table.is_null() {
                return invalid(format_args!("{name} is NULL; expected a table"));
            }
            self.array(arrays, name, table.cast::<u8>(), dtype.size(), elements)?;
        }
        Ok(Some(Rope {
            interleaved: c.style == KFA_ROPE_INTERLEAVED,
            rotary_dim,
            offset,
            dtype,
            by_row,
            cos: c.cos.cast(),
            sin: c.sin.cast(),
            row_stride,
            rows,
        }))
    }

    /// Validates new keys and values, shaped like the query but for heads, and their slots; with the
    /// memory that the new keys and values lie in.
    ///
    /// # Safety
    /// As [`Self::norm`].
    pub unsafe fn append(
        &self,
        key_shape: [usize; 4],
        value_head_dim: usize,
        arrays: &mut Arrays,
    ) -> Result<Option<(Append, [Placed; 2])>, E> {
        if self.desc.append.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's.
        let c = unsafe {
            sized::read(self.desc.append, &NO_APPEND, size_of::<kfa_append>(), "append")?
        };
        self.reserved(c.reserved, "append->reserved")?;
        let [batch, rows, heads, _] = key_shape;
        let key = self.view(&c.key, key_shape, "append->key")?;
        let value = self.view(&c.value, [batch, rows, heads, value_head_dim], "append->value")?;
        for tensor in [&key, &value] {
            if !tensor.view.dtype.is_float() {
                return invalid(format_args!(
                    "{}.dtype is {}; expected fp32, fp16 or bf16",
                    tensor.name, tensor.view.dtype
                ));
            }
        }
        self.array(arrays, "append->slots", c.slots, 8, batch.checked_mul(rows))?;
        let append = Append { key: key.view, value: value.view, slots: c.slots };
        Ok(Some((append, [key, value])))
    }
}
