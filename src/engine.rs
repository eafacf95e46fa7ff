//! The engine's own call, with its cache tensors and positions, as an attention problem.

use crate::abi::*;
use crate::error::{Error, Result};
use crate::problem::{Check, DESC_NAMES, Device, Names, Problem, positive};
use crate::{cpu, cuda, dispatch};
use std::ffi::c_void;

/// What stays the same from call to call: the shape of heads and cache.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub device: Device,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_size: usize,
    /// Capacity of the cache in tokens: its layer stride.
    pub seq_len: usize,
    pub softmax_scale: f32,
    pub is_causal: bool,
}

impl Geometry {
    /// Checks the engine's arguments, under the engine's names.
    pub fn new(
        device: kfa_device_type,
        head_num: i32,
        kv_head_num: i32,
        head_size: i32,
        seq_len: i32,
        softmax_scale: f32,
        is_causal: bool,
    ) -> Result<Self> {
        let device = Device::from_c(device, "device")?;
        dispatch::available(device)?;
        let heads = positive(head_num, "head_num")?;
        let kv_heads = positive(kv_head_num, "kv_head_num")?;
        let head_size = positive(head_size, "head_size")?;
        let seq_len = positive(seq_len, "seq_len")?;
        if heads % kv_heads != 0 {
            return Err(Error::invalid(format!(
                "head_num is {heads}; expected a multiple of kv_head_num ({kv_heads})"
            )));
        }
        crate::problem::scale_or_default(softmax_scale, head_size)?;
        if heads.checked_mul(head_size).is_none_or(|n| n > i32::MAX as usize) {
            return Err(Error::invalid(format!(
                "head_num * head_size ({heads} * {head_size}) overflows; expected below 2^31"
            )));
        }
        Ok(Self { device, heads, kv_heads, head_size, seq_len, softmax_scale, is_causal })
    }

    /// Key/value heads from the engine's `kv_mul` and `kv_dim`, which must agree.
    pub fn kv_heads_of(head_num: i32, head_size: i32, kv_mul: i32, kv_dim: i32) -> Result<i32> {
        positive(head_num, "head_num")?;
        positive(head_size, "head_size")?;
        positive(kv_mul, "kv_mul")?;
        positive(kv_dim, "kv_dim")?;
        if head_num % kv_mul != 0 {
            return Err(Error::invalid(format!(
                "head_num is {head_num}; expected a multiple of kv_mul ({kv_mul})"
            )));
        }
        let kv_heads = head_num / kv_mul;
        let expected = i64::from(kv_heads) * i64::from(head_size);
        if i64::from(kv_dim) != expected {
            return Err(Error::invalid(format!(
                "kv_dim is {kv_dim}; expected head_num / kv_mul * head_size = {expected}"
            )));
        }
        Ok(kv_heads)
    }

    fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_size
    }
}

/// The names of the flash attention kernel and the layer.
pub static FLASH_NAMES: Names = DESC_NAMES;
/// The names of the standard MHA kernel.
pub static MHA_NAMES: Names = Names {
    query: "query",
    key: "key_cache",
    value: "value_cache",
    output: "mha_out",
    workspace: "score",
    layer: "layer_index",
};

/// One attention call of the engine.
#[derive(Clone, Copy)]
pub struct Call {
    pub names: &'static Names,
    pub query: kfa_tensor,
    pub key: kfa_tensor,
    pub value: kfa_tensor,
    pub output: kfa_tensor,
    /// Position of the newest query row.
    pub pos: i32,
    pub layer_idx: i32,
    pub mode: kfa_attention_mode,
    pub stream: *mut c_void,
}

/// Memory for calls that bring no workspace; grows to what the kernels like, and is kept.
#[derive(Default)]
pub struct Scratch {
    host: Vec<f32>,
    device: cuda::DeviceScratch,
}

impl Call {
    /// Runs the call in the given scratch.
    pub fn run(&self, geometry: &Geometry, scratch: &mut Scratch) -> Result<()> {
        let problem = self.problem(geometry, None)?;
        match geometry.device {
            Device::Cpu => cpu::run_in(&problem, &mut scratch.host),
            Device::Cuda => cuda::run_in(&problem, geometry.seq_len, &scratch.device),
        }
    }

    /// The problem that this call poses, with the engine's score storage, if there is any, as its
    /// workspace.
    pub fn problem(&self, geometry: &Geometry, score: Option<&kfa_tensor>) -> Result<Problem> {
        let mut desc = self.describe(geometry)?;
        // An engine that dropped its score storage passes an empty tensor.
        if let Some(score) = score.filter(|score| !score.data.is_null() && score.size != 0) {
            if score.dtype != KFA_DTYPE_FP32 {
                return Err(Error::invalid(format!(
                    "score.dtype is {}; expected KFA_DTYPE_FP32 (1)",
                    score.dtype
                )));
            }
            let elements = checked_size(score, "score", geometry.device)?;
            let least = geometry.heads.saturating_mul(geometry.seq_len);
            if elements < least {
                return Err(Error::invalid(format!(
                    "score.size is {elements}; expected at least head_num * seq_len = {least}"
                )));
            }
            desc.workspace = score.data;
            desc.workspace_size = elements * size_of::<f32>();
        }
        // SAFETY: the description points to tensors alone.
        unsafe { Problem::named(&desc, Check::All, self.names) }
    }

    /// The problem that this call poses; the workspace is left empty.
    fn describe(&self, geometry: &Geometry) -> Result<kfa_attention_desc> {
        let g = geometry;
        if self.pos < 0 {
            return Err(Error::invalid(format!("pos is {}; expected 0 or more", self.pos)));
        }
        if self.pos as usize >= g.seq_len {
            return Err(Error::invalid(format!(
                "pos is {}; expected below seq_len ({}), the cache's capacity",
                self.pos, g.seq_len
            )));
        }
        if self.layer_idx < 0 {
            return Err(Error::invalid(format!(
                "{} is {}; expected 0 or more",
                self.names.layer, self.layer_idx
            )));
        }
        let query_elements = checked_size(&self.query, self.names.query, g.device)?;
        let output_elements = checked_size(&self.output, self.names.output, g.device)?;
        let row = g.heads * g.head_size;
        if query_elements % row != 0 {
            return Err(Error::invalid(format!(
                "query.size is {query_elements}; expected a multiple of head_num * head_size ({row})"
            )));
        }
        let q_len = query_elements / row;
        if q_len > self.pos as usize + 1 {
            return Err(Error::invalid(format!(
                "query holds {q_len} rows, but pos is {}; expected at most pos + 1 rows",
                self.pos
            )));
        }
        if output_elements != query_elements {
            return Err(Error::invalid(format!(
                "{}.size is {output_elements}; expected query.size ({query_elements})",
                self.names.output
            )));
        }
        // 64-bit on purpose: layer offsets of real models do not fit an int32.
        let layer_stride = g.seq_len as u64 * g.kv_dim() as u64;
        let layer_start = (self.layer_idx as u64).checked_mul(layer_stride);
        let layer_end = layer_start.and_then(|start| start.checked_add(layer_stride));
        let cache = |tensor: &kfa_tensor, name: &str| -> Result<kfa_tensor_view> {
            let elements = checked_size(tensor, name, g.device)? as u64;
            let start = match (layer_start, layer_end) {
                (Some(start), Some(end)) if end <= elements => start,
                _ => {
                    let end = (i128::from(self.layer_idx) + 1) * i128::from(layer_stride);
                    return Err(Error::invalid(format!(
                        "{name}.size is {elements}; expected at least ({layer} + 1) * seq_len * kv_dim = {end} for {layer} {}",
                        self.layer_idx,
                        layer = self.names.layer,
                    )));
                }
            };
            let layer_bytes = start as usize * size_of_dtype(tensor.dtype);
            Ok(kfa_tensor_view {
                data: tensor.data.wrapping_byte_add(layer_bytes),
                dtype: tensor.dtype,
                reserved: 0,
                batch_stride: layer_stride as i64,
                row_stride: g.kv_dim() as i64,
                head_stride: g.head_size as i64,
            })
        };
        let rows = |tensor: &kfa_tensor| kfa_tensor_view {
            data: tensor.data,
            dtype: tensor.dtype,
            ..crate::abi::NO_VIEW
        };
        Ok(kfa_attention_desc {
            device: match g.device {
                Device::Cpu => KFA_DEVICE_CPU,
                Device::Cuda => KFA_DEVICE_CUDA,
            },
            mode: self.mode,
            is_causal: i32::from(g.is_causal),
            q_len: q_len as i32,
            kv_len: self.pos + 1,
            heads: g.heads as i32,
            kv_heads: g.kv_heads as i32,
            head_dim: g.head_size as i32,
            softmax_scale: g.softmax_scale,
            query: rows(&self.query),
            key: cache(&self.key, self.names.key)?,
            value: cache(&self.value, self.names.value)?,
            output: rows(&self.output),
            stream: self.stream,
            ..crate::abi::DEFAULT_DESC
        })
    }
}

/// Checks what every tensor of the engine must satisfy and returns its element count.
fn checked_size(tensor: &kfa_tensor, name: &str, device: Device) -> Result<usize> {
    if tensor.data.is_null() {
        return Err(Error::invalid(format!("{name}.data is NULL; expected a tensor")));
    }
    if tensor.size < 1 {
        return Err(Error::invalid(format!(
            "{name}.size is {}; expected at least 1 element",
            tensor.size
        )));
    }
    let there = match device {
        Device::Cpu => KFA_DEVICE_CPU,
        Device::Cuda => KFA_DEVICE_CUDA,
    };
    if tensor.device != there {
        return Err(Error::invalid(format!(
            "{name}.device is {}; expected the device of the call ({device:?})",
            tensor.device
        )));
    }
    if size_of_dtype(tensor.dtype) == 0 {
        return Err(Error::invalid(format!(
            "{name}.dtype is {}; expected KFA_DTYPE_FP32 (1), _FP16 (4) or _BF16 (5)",
            tensor.dtype
        )));
    }
    if tensor.size > isize::MAX as i64 / size_of::<f32>() as i64 {
        return Err(Error::invalid(format!(
            "{name}.size is {}, which overflows the address space",
            tensor.size
        )));
    }
    Ok(tensor.size as usize)
}

/// Bytes of an element that an engine's tensors may have; 0 for any other.
fn size_of_dtype(dtype: kfa_dtype) -> usize {
    match dtype {
        KFA_DTYPE_FP32 => 4,
        KFA_DTYPE_FP16 | KFA_DTYPE_BF16 => 2,
        _ => 0,
    }
}
