//! The opaque flash attention layer: the engine's `op::FlashAttention` in C.

use crate::abi::*;
use crate::engine::{Call, FLASH_NAMES, Geometry, Scratch};
use crate::error::{Error, Result};
use std::ffi::c_void;

/// Inputs are query, key cache and value cache.
pub const INPUTS: usize = 3;

/// One layer object serves all layers of a model: `set_layer_idx` says which.
pub struct FlashAttentionLayer {
    geometry: Geometry,
    layer_idx: i32,
    pos: i32,
    inputs: [Option<kfa_tensor>; INPUTS],
    output: Option<kfa_tensor>,
    stream: *mut c_void,
    scratch: Scratch,
}

impl FlashAttentionLayer {
    pub fn new(geometry: Geometry, layer_idx: i32) -> Result<Self> {
        let mut layer = Self {
            geometry,
            layer_idx: 0,
            pos: 0,
            inputs: [None; INPUTS],
            output: None,
            stream: std::ptr::null_mut(),
            scratch: Scratch::default(),
        };
        layer.set_layer_idx(layer_idx)?;
        Ok(layer)
    }

    pub fn set_pos(&mut self, pos: i32) -> Result<()> {
        let capacity = self.geometry.seq_len;
        if pos < 0 || pos as usize >= capacity {
            return Err(Error::invalid(format!(
                "pos is {pos}; expected 0 to {} (seq_len is {capacity})",
                capacity - 1
            )));
        }
        self.pos = pos;
        Ok(())
    }

    pub fn set_layer_idx(&mut self, layer_idx: i32) -> Result<()> {
        if layer_idx < 0 {
            return Err(Error::invalid(format!("layer_idx is {layer_idx}; expected 0 or more")));
        }
        self.layer_idx = layer_idx;
        Ok(())
    }

    pub fn set_input(&mut self, index: i32, tensor: kfa_tensor) -> Result<()> {
        let slot = usize::try_from(index).ok().and_then(|index| self.inputs.get_mut(index));
        *slot.ok_or_else(|| {
            Error::invalid(format!("index is {index}; expected 0 (query), 1 (key) or 2 (value)"))
        })? = Some(tensor);
        Ok(())
    }

    pub fn set_output(&mut self, index: i32, tensor: kfa_tensor) -> Result<()> {
        if index != 0 {
            return Err(Error::invalid(format!("index is {index}; expected 0")));
        }
        self.output = Some(tensor);
        Ok(())
    }

    pub fn set_stream(&mut self, stream: *mut c_void) {
        self.stream = stream;
    }

    pub fn forward(&mut self) -> Result<()> {
        let unset = |name: &str| {
            Error::invalid(format!(
                "{name} is not set; expected set_input/set_output before forward"
            ))
        };
        let [query, key, value] = self.inputs;
        let call = Call {
            names: &FLASH_NAMES,
            query: query.ok_or_else(|| unset("input 0 (query)"))?,
            key: key.ok_or_else(|| unset("input 1 (key)"))?,
            value: value.ok_or_else(|| unset("input 2 (value)"))?,
            output: self.output.ok_or_else(|| unset("output 0"))?,
            pos: self.pos,
            layer_idx: self.layer_idx,
            mode: KFA_ATTENTION_MODE_AUTO,
            stream: self.stream,
        };
        call.run(&self.geometry, &mut self.scratch)
    }
}
