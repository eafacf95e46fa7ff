//! Where a key's row lies and how it is stored: pages and quantisation.
#![allow(dead_code, reason = "kernels that serve paged and quantised caches read it")]

use super::memory::{Arrays, extent};
use super::validator::{Validator, invalid};
use super::view::Placed;
use crate::abi::*;
use crate::dtype::Dtype;
use crate::error::{Refusal, Result};
use crate::sized;

/// Which page of the cache holds which keys of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// Tokens of a page.
    pub size: usize,
    /// Pages of the cache: every entry that is read lies below.
    pub count: usize,
    /// `[batch, pages of a sequence]`, or all sequences' entries after each other.
    pub table: *const i32,
    /// The values' own table; the keys' where they share it.
    pub value_table: *const i32,
    /// Entries from one sequence's row to the next, or of the whole table if there are `offsets`.
    pub stride: usize,
    /// Where each sequence's entries begin; null where rows are `stride` apart.
    pub offsets: *const i32,
}

/// Scales and zero points of a quantised tensor.
#[derive(Clone, Copy, Debug)]
pub struct Quant {
    pub dtype: Dtype,
    pub scale: *const u8,
    /// Null if it is 0 throughout.
    pub zero: *const u8,
    pub token_group: usize,
    pub channel_group: usize,
    pub batch_stride: usize,
    pub token_stride: usize,
    pub head_stride: usize,
    pub channel_stride: usize,
}

const NO_QUANT: kfa_quant = kfa_quant {
    struct_size: size_of::<kfa_quant>() as u32,
    dtype: KFA_DTYPE_UNKNOWN,
    scale: std::ptr::null(),
    zero: std::ptr::null(),
    token_group: 0,
    channel_group: 0,
    batch_stride: 0,
    token_stride: 0,
    head_stride: 0,
    channel_stride: 0,
};

impl<E: Refusal> Validator<'_, E> {
    /// Validates the page table; `None` without pages.
    ///
    /// # Safety
    /// On the CPU, where everything is checked, `page_offsets` may be read.
    pub unsafe fn pages(
        &self,
        batch: usize,
        kv_len: usize,
        arrays: &mut Arrays,
    ) -> Result<Option<Pages>, E> {
        let d = self.desc;
        for (name, value) in [("page_size", d.page_size), ("pages", d.pages)] {
            self.not_negative(value, name)?;
        }
        if d.page_table_stride < 0 {
            return invalid(format_args!(
                "page_table_stride is {}; expected 0 or more",
                d.page_table_stride
            ));
        }
        if d.page_size == 0 {
            for (name, set) in [
                ("page_table", !d.page_table.is_null()),
                ("page_offsets", !d.page_offsets.is_null()),
                ("value_page_table", !d.value_page_table.is_null()),
                ("pages", d.pages != 0),
            ] {
                if set {
                    return invalid(format_args!(
                        "page_size is 0; expected at least 1 with {name}"
                    ));
                }
            }
            return Ok(None);
        }
        let size = d.page_size as usize;
        if d.pages == 0 {
            return invalid(format_args!("pages is 0; expected the number of pages of the cache"));
        }
        if self.all() && d.page_table.is_null() {
            return invalid(format_args!("page_table is NULL; expected a table with page_size"));
        }
        let of_sequence = kv_len.div_ceil(size);
        let stride = match d.page_table_stride as usize {
            0 if d.page_offsets.is_null() => of_sequence,
            0 => {
                return invalid(format_args!(
                    "page_table_stride is 0; expected the table's entries with page_offsets"
                ));
            }
            stride => stride,
        };
        if d.page_offsets.is_null() && batch > 1 && stride < of_sequence {
            return invalid(format_args!(
                "page_table_stride is {stride}; expected at least {of_sequence}, the pages of kv_len keys"
            ));
        }
        let entries = match d.page_offsets.is_null() {
            true => extent(&[(stride, batch), (1, of_sequence)]),
            false => Some(stride),
        };
        self.array(arrays, "page_table", d.page_table, 4, entries)?;
        self.array(arrays, "value_page_table", d.value_page_table, 4, entries)?;
        self.array(arrays, "page_offsets", d.page_offsets, 4, Some(batch + 1))?;
        Ok(Some(Pages {
            size,
            count: d.pages as usize,
            table: d.page_table,
            value_table: if d.value_page_table.is_null() {
                d.page_table
            } else {
                d.value_page_table
            },
            stride,
            offsets: d.page_offsets,
        }))
    }

    /// Validates how one tensor of the cache is dequantised; `None` where its type needs no scales.
    ///
    /// # Safety
    /// The description's pointer is null or leads to a struct that is as its size says.
    pub unsafe fn quant(
        &self,
        tensor: &Placed,
        pointer: *const kfa_quant,
        [name, scale_name, zero_name]: [&'static str; 3],
        page_size: usize,
        arrays: &mut Arrays,
    ) -> Result<Option<Quant>, E> {
        let dtype = tensor.view.dtype;
        let scaled = !dtype.is_float() && !dtype.is_block();
        if pointer.is_null() {
            let fp8 = matches!(dtype, Dtype::Fp8E4m3 | Dtype::Fp8E5m2);
            if scaled && !fp8 {
                return invalid(format_args!("{name} is NULL; expected the scales of {dtype}"));
            }
            return Ok(None);
        }
        if !scaled {
            return invalid(format_args!("{name} is set; expected NULL, as {dtype} has no scales"));
        }
        // SAFETY: the caller's.
        let q = unsafe { sized::read(pointer, &NO_QUANT, size_of::<kfa_quant>(), name)? };
        let element = Dtype::from_c(q.dtype).filter(|dtype| dtype.is_float());
        let Some(element) = element else {
            return invalid(format_args!(
                "{name}->dtype is {}; expected fp32, fp16 or bf16",
                q.dtype
            ));
        };
        if self.all() && q.scale.is_null() {
            return invalid(format_args!("{scale_name} is NULL; expected scales"));
        }
        let [batch, rows, heads, head_dim] = tensor.shape;
        let group = |value: i32, field: &str, whole: usize, default: usize| -> Result<usize, E> {
            match value {
                0 => Ok(default),
                1.. if whole.is_multiple_of(value as usize) => Ok(value as usize),
                _ => invalid(format_args!(
                    "{name}->{field} is {value}; expected 0 or a divisor of {whole}"
                )),
            }
        };
        // A dense cache may end inside a group.
        let tokens = if page_size > 0 { page_size } else { 0 };
        let token_group = group(q.token_group, "token_group", tokens, 1)?;
        let channel_group = group(q.channel_group, "channel_group", head_dim, head_dim)?;
        for (field, stride) in [
            ("batch_stride", q.batch_stride),
            ("token_stride", q.token_stride),
            ("head_stride", q.head_stride),
            ("channel_stride", q.channel_stride),
        ] {
            if stride < 0 {
                return invalid(format_args!("{name}->{field} is {stride}; expected 0 or more"));
            }
        }
        let [batch_stride, token_stride, head_stride, channel_stride] =
            [q.batch_stride, q.token_stride, q.head_stride, q.channel_stride].map(|s| s as usize);
        let count = extent(&[
            (batch_stride, batch),
            (token_stride, rows.div_ceil(token_group)),
            (head_stride, heads),
            (channel_stride, head_dim / channel_group),
        ]);
        self.array(arrays, scale_name, q.scale.cast::<u8>(), element.size(), count)?;
        self.array(arrays, zero_name, q.zero.cast::<u8>(), element.size(), count)?;
        Ok(Some(Quant {
            dtype: element,
            scale: q.scale.cast(),
            zero: q.zero.cast(),
            token_group,
            channel_group,
            batch_stride,
            token_stride,
            head_stride,
            channel_stride,
        }))
    }
}
