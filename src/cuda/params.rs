//! What a kernel is told: mirrors `kernels/params.h` field by field; both sides assert the size.

use crate::dtype::Dtype;
use crate::features::Features;
use crate::problem::{self, MaskKind, Problem, View, Visible};
use std::ptr::null;

/// `KfaView`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ParamsView {
    pub data: *mut u8,
    pub batch_stride: i64,
    pub row_stride: i64,
    pub head_stride: i64,
}

/// `KfaLengths`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub query_offsets: *const i32,
    pub kv_offsets: *const i32,
    pub q_lens: *const i32,
    pub kv_lens: *const i32,
    pub kv_starts: *const i32,
    pub cache_index: *const i32,
    pub query_rows: i32,
    pub kv_rows: i32,
    pub cache_batch: i32,
}

/// `KfaPages`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    pub table: *const i32,
    pub value_table: *const i32,
    pub offsets: *const i32,
    pub stride: i64,
    pub size: i32,
    pub count: i32,
}

/// `KfaScores`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    pub sinks: *const f32,
    pub alibi_slopes: *const f32,
    pub alibi_batch_stride: i64,
    pub mask: *const u8,
    pub mask_offsets: *const i64,
    pub mask_head_factor: *const f32,
    pub mask_batch_stride: i64,
    pub mask_head_stride: i64,
    pub mask_row_stride: i64,
    /// `KfaMaskKind`.
    pub mask_kind: i32,
    pub mask_columns: i32,
    pub mask_newest: i32,
    pub softcap: f32,
}

/// `KfaAttentionParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Params {
    pub query: ParamsView,
    pub key: ParamsView,
    pub value: ParamsView,
    pub output: ParamsView,
    pub lse: *mut f32,
    pub workspace: *mut f32,
    pub pos: *const i32,
    pub batch: i32,
    pub q_len: i32,
    pub kv_len: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub causal: i32,
    pub splits: i32,
    pub split_keys: i32,
    pub scale: f32,
    pub visible: Visible,
    pub lengths: Lengths,
    pub pages: Pages,
    pub scores: Scores,
    pub lse_strides: [i64; 3],
    pub value_head_dim: i32,
    pub lse_base2: i32,
}

const _: () = assert!(
    size_of::<Visible>() == 24
        && size_of::<Lengths>() == 64
        && size_of::<Pages>() == 40
        && size_of::<Scores>() == 88
        && size_of::<Params>() == 440,
    "keep in step with kernels/params.h"
);

impl Params {
    /// The problem as kernels see it; splits are for the algorithm to fill in.
    pub fn new(p: &Problem) -> Self {
        Self {
            query: p.query.into(),
            key: p.key.into(),
            value: p.value.into(),
            output: p.output.into(),
            lse: p.lse,
            workspace: p.workspace.cast(),
            pos: p.pos_device,
            // Sizes came from the int32 fields of the C API.
            batch: p.batch as i32,
            q_len: p.q_len as i32,
            kv_len: p.kv_len as i32,
            heads: p.heads as i32,
            kv_heads: p.kv_heads as i32,
            head_dim: p.head_dim as i32,
            causal: i32::from(p.causal),
            splits: 1,
            split_keys: p.kv_len as i32,
            scale: p.scale,
            visible: p.visible,
            lengths: (&p.lengths).into(),
            pages: p.pages.as_ref().map_or(Pages::NONE, Pages::from),
            scores: (&p.scores).into(),
            lse_strides: p.lse_strides.map(|stride| stride as i64),
            value_head_dim: p.value_head_dim as i32,
            lse_base2: i32::from(p.features.has(Features::LSE_BASE2)),
        }
    }
}

impl From<&problem::Lengths> for Lengths {
    fn from(l: &problem::Lengths) -> Self {
        let most = |rows: usize| rows.min(i32::MAX as usize) as i32;
        Self {
            query_offsets: l.query_offsets,
            kv_offsets: l.kv_offsets,
            q_lens: l.q_lens,
            kv_lens: l.kv_lens,
            kv_starts: l.kv_starts,
            cache_index: l.cache_index,
            query_rows: most(l.query_rows),
            kv_rows: most(l.kv_rows),
            cache_batch: most(l.cache_batch),
        }
    }
}

impl Pages {
    const NONE: Self =
        Self { table: null(), value_table: null(), offsets: null(), stride: 0, size: 0, count: 0 };
}

impl From<&problem::Pages> for Pages {
    fn from(p: &problem::Pages) -> Self {
        Self {
            table: p.table,
            value_table: p.value_table,
            offsets: p.offsets,
            stride: p.stride as i64,
            size: p.size as i32,
            count: p.count as i32,
        }
    }
}

impl From<&problem::Scores> for Scores {
    fn from(s: &problem::Scores) -> Self {
        let plain = Self {
            sinks: s.sinks,
            alibi_slopes: s.alibi_slopes,
            alibi_batch_stride: s.alibi_batch_stride as i64,
            mask: null(),
            mask_offsets: null(),
            mask_head_factor: null(),
            mask_batch_stride: 0,
            mask_head_stride: 0,
            mask_row_stride: 0,
            mask_kind: 0,
            mask_columns: 0,
            mask_newest: 0,
            softcap: s.softcap,
        };
        s.mask.as_ref().map_or(plain, |mask| Self {
            mask: mask.data,
            mask_offsets: mask.offsets,
            mask_head_factor: mask.head_factor,
            mask_batch_stride: mask.batch_stride as i64,
            mask_head_stride: mask.head_stride as i64,
            mask_row_stride: mask.row_stride as i64,
            mask_kind: match mask.kind {
                MaskKind::Additive(Dtype::Fp16) => 2,
                MaskKind::Additive(Dtype::Bf16) => 3,
                MaskKind::Additive(_) => 1,
                MaskKind::Boolean => 4,
                MaskKind::Bits => 5,
            },
            mask_columns: mask.columns as i32,
            mask_newest: i32::from(mask.newest),
            ..plain
        })
    }
}

impl From<View> for ParamsView {
    fn from(view: View) -> Self {
        Self {
            data: view.data,
            batch_stride: view.batch_stride as i64,
            row_stride: view.row_stride as i64,
            head_stride: view.head_stride as i64,
        }
    }
}
