//! What every room of the validator needs: the description, how much to check, how to refuse.

use super::{Check, Device, Names};
use crate::abi::*;
use crate::dtype::Dtype;
use crate::error::{Error, Refusal, Result, Status};
use std::fmt;
use std::marker::PhantomData;

/// A description under validation; refusals are `E`s.
pub struct Validator<'a, E> {
    pub desc: &'a kfa_attention_desc,
    pub names: &'a Names,
    pub check: Check,
    pub device: Device,
    refusal: PhantomData<E>,
}

pub fn invalid<T, E: Refusal>(message: fmt::Arguments) -> Result<T, E> {
    Err(E::refuse(Status::InvalidArgument, message))
}

pub fn unsupported<T, E: Refusal>(message: fmt::Arguments) -> Result<T, E> {
    Err(E::refuse(Status::Unsupported, message))
}

/// Reads a size that must be at least 1.
pub fn positive(value: i32, name: &str) -> Result<usize> {
    at_least_one::<Error>(value, name)
}

/// Resolves the default of 0 and refuses what is not a number.
pub fn scale_or_default(scale: f32, head_dim: usize) -> Result<f32> {
    resolve_scale::<Error>(scale, head_dim)
}

fn at_least_one<E: Refusal>(value: i32, name: &str) -> Result<usize, E> {
    if value < 1 {
        return invalid(format_args!("{name} is {value}; expected at least 1"));
    }
    Ok(value as usize)
}

fn resolve_scale<E: Refusal>(scale: f32, head_dim: usize) -> Result<f32, E> {
    if scale == 0.0 {
        return Ok(1.0 / (head_dim as f32).sqrt());
    }
    if !scale.is_finite() {
        return invalid(format_args!(
            "softmax_scale is {scale}; expected a finite number, or 0 for 1/sqrt(head_dim)"
        ));
    }
    Ok(scale)
}

impl<'a, E: Refusal> Validator<'a, E> {
    pub fn new(
        desc: &'a kfa_attention_desc,
        names: &'a Names,
        check: Check,
        device: Device,
    ) -> Self {
        Self { desc, names, check, device, refusal: PhantomData }
    }

    /// The factor on scores, of which 0 is the default.
    pub fn scale(&self, head_dim: usize) -> Result<f32, E> {
        resolve_scale(self.desc.softmax_scale, head_dim)
    }

    /// Whether the tensors' memory must be there.
    pub fn all(&self) -> bool {
        self.check == Check::All
    }

    pub fn not_negative(&self, value: i32, name: &str) -> Result<(), E> {
        if value < 0 {
            return invalid(format_args!("{name} is {value}; expected 0 or more"));
        }
        Ok(())
    }

    pub fn reserved(&self, value: i32, name: &str) -> Result<(), E> {
        if value != 0 {
            return invalid(format_args!("{name} is {value}; expected 0"));
        }
        Ok(())
    }

    pub fn float_type(&self, value: kfa_dtype, name: &str) -> Result<Dtype, E> {
        match Dtype::from_c(value).filter(|dtype| dtype.is_float()) {
            Some(dtype) => Ok(dtype),
            None => invalid(format_args!("{name} is {value}; expected fp32, fp16 or bf16")),
        }
    }

    /// Reads a size that must be at least 1.
    pub fn positive(&self, value: i32, name: &str) -> Result<usize, E> {
        at_least_one(value, name)
    }
}
