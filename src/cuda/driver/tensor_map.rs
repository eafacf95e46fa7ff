//! Tensor maps: how TMA is told where a tensor lies.

use super::launch::KernelParam;
use super::result::check;
use crate::dtype::Dtype;
use crate::error::Result;
use cudarc::driver::sys::{self, CUtensorMapDataType, CUtensorMapSwizzle};
use std::ffi::c_void;

/// What a kernel takes as `const __grid_constant__ CUtensorMap`; only where
/// [`Caps::tensor_maps`](crate::cuda::caps::Caps::tensor_maps) says so.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct TensorMap(sys::CUtensorMap);

// SAFETY: the driver's own struct.
unsafe impl KernelParam for TensorMap {}

/// A tensor in device memory, and the box of it that one copy moves. Dimensions count from the
/// innermost, whose elements lie side by side; there are one to five.
pub struct TensorShape<'a> {
    /// On 16 bytes.
    pub data: *mut c_void,
    pub dtype: Dtype,
    /// Elements along each dimension. A copy fills what lies past an end with zeros.
    pub sizes: &'a [u64],
    /// Bytes from one element to the next along each dimension after the first: multiples of 16.
    pub strides: &'a [u64],
    /// Elements of a box along each dimension, up to 256; the innermost fill 128 bytes at
    /// most: that is what the swizzle spans.
    pub tile: &'a [u32],
}

impl TensorMap {
    /// Encodes a map, on the host alone: no context is needed and nothing is enqueued.
    pub fn encode(shape: &TensorShape) -> Result<TensorMap> {
        let rank = shape.sizes.len();
        assert!(
            (1..=5).contains(&rank) && shape.strides.len() == rank - 1 && shape.tile.len() == rank
        );
        let mut map = TensorMap(sys::CUtensorMap { opaque: [0; 16] });
        // SAFETY: as many sizes, strides and box edges as the rank asks for, and a step of one
        // element in each dimension; the map alone is written.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map.0,
                match shape.dtype {
                    Dtype::Fp32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                    Dtype::Fp16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                    Dtype::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                    other => unreachable!("no kernel loads {other} tiles"),
                },
                rank as u32,
                shape.data,
                shape.sizes.as_ptr(),
                shape.strides.as_ptr(),
                shape.tile.as_ptr(),
                [1; 5].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                // Among the eight 16-byte chunks of 128 bytes, by the row modulo 8: what `SharedTile` does.
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check(result, "cuTensorMapEncodeTiled")?;
        Ok(map)
    }
}
