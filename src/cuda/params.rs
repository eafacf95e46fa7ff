//! What a kernel is told: mirrors `kernels/params.h` field by field; both sides assert the size.

use crate::problem::{Problem, View};

/// `KfaView`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ParamsView {
    pub data: *mut u8,
    pub batch_stride: i64,
    pub row_stride: i64,
    pub head_stride: i64,
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
}

const _: () = assert!(size_of::<Params>() == 192, "keep in step with kernels/params.h");

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
        }
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
