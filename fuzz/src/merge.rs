//! Merges of random parts, some empty, some poisoned.

use crate::call::close;
use crate::case::Choose;
use crate::engine::{bytes, words};
use crate::library::library;
use crate::memory::{Flush, Guarded};
use crate::random::Random;
use crate::run::Outcome;
use crate::storage::Type;
use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::reference::{Row, merge};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MergeCase {
    pub seed: u64,
    pub parts: usize,
    pub batch: usize,
    pub q_len: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub parts_type: Type,
    pub output_type: Type,
    pub base2: bool,
    /// Rows of all tensors are further apart than they are long.
    pub strides: bool,
    /// Row `r` has so many of its own parts.
    pub ragged: bool,
    /// Without a merged LSE.
    pub no_lse: bool,
    pub flush_start: bool,
}

impl MergeCase {
    pub fn choose(seed: u64, choose: Choose) -> Self {
        Self {
            seed,
            parts: [1, 2, 3, 8, 64][choose("parts", 5)],
            batch: 1 + choose("batch", 3),
            q_len: [1, 2, 7, 33][choose("q_len", 4)],
            heads: [1, 2, 5, 8][choose("heads", 4)],
            head_dim: [64, 128, 1, 7, 96, 512][choose("head_dim", 6)],
            parts_type: Type::FLOATS[choose("parts type", 3)],
            output_type: Type::FLOATS[choose("output type", 3)],
            base2: choose("lse_base2", 3) == 1,
            strides: choose("strides", 3) == 1,
            ragged: choose("ragged", 3) == 1,
            no_lse: choose("lse", 3) == 1,
            flush_start: choose("flush", 2) == 1,
        }
    }

    /// Runs the merge; an error says what is wrong with the library.
    pub fn run(&self) -> Result<Outcome, String> {
        let library = library();
        let random = &mut Random(self.seed);
        let flush = if self.flush_start { Flush::Start } else { Flush::End };
        let rows = self.batch * self.q_len;
        // How many parts each row has, and which rows of the parts those are.
        let counts: Vec<usize> = (0..rows)
            .map(|_| if self.ragged { random.below(self.parts + 1) } else { self.parts })
            .collect();
        let mut offsets = vec![0];
        counts.iter().for_each(|count| offsets.push(offsets[offsets.len() - 1] + *count as i32));
        let part_rows = offsets[rows] as usize;
        let (tensors, shape) = match self.ragged {
            true => (1, [1, part_rows.max(1), self.heads]),
            false => (self.parts, [self.batch, self.q_len, self.heads]),
        };
        let gap = usize::from(self.strides);
        let strides = |[_, rows, heads]: [usize; 3], dim: usize| {
            let head = dim + 3 * gap;
            let row = heads * head + 5 * gap;
            [rows * row + 2 * gap, row, head]
        };
        let lse_strides = |[_, rows, heads]: [usize; 3]| {
            let head = rows + gap;
            [heads * head + 2 * gap, head, 1]
        };
        let (of_parts, of_lses) = (strides(shape, self.head_dim), lse_strides(shape));
        let whole = [self.batch, self.q_len, self.heads];
        let (of_output, of_lse) = (strides(whole, self.head_dim), lse_strides(whole));

        let size = self.parts_type.bytes(1);
        let mut memory = vec![];
        let mut parts: Vec<Vec<Row>> = vec![];
        for _ in 0..tensors {
            let last = |[a, b, c]: [usize; 3], of: [usize; 3]| {
                (a - 1) * of[0] + (b - 1) * of[1] + (c - 1) * of[2]
            };
            let end = last(shape, of_parts) + self.head_dim;
            let lse_end = last([shape[0], shape[2], shape[1]], of_lses) + 1;
            let mut outputs = Guarded::new(0..end * size, 0, flush);
            let mut lses = Guarded::new(0..4 * lse_end, 0, flush);
            let mut tensor = vec![];
            for b in 0..shape[0] {
                for row in 0..shape[1] {
                    for head in 0..shape[2] {
                        let lse = match random.below(40) {
                            0..4 => f32::NEG_INFINITY,
                            4 => random.pick(&[f32::NAN, f32::INFINITY]),
                            5 => 300.0 * random.normal(),
                            _ => 4.0 * random.normal(),
                        };
                        let mut numbers = self.parts_type.encode(self.head_dim, 1.0, random);
                        // Nothing was seen, and nothing need have been written.
                        if lse == f32::NEG_INFINITY {
                            numbers.fill(0xff);
                        }
                        let at = b * of_parts[0] + row * of_parts[1] + head * of_parts[2];
                        outputs.write(at * size, &numbers);
                        let at = b * of_lses[0] + head * of_lses[1] + row * of_lses[2];
                        lses.write(4 * at, &lse.to_ne_bytes());
                        let copy = words(&numbers);
                        let numbers = self.parts_type.elements(bytes(&copy));
                        let output = (0..self.head_dim).map(|i| numbers.at(0, i)).collect();
                        let unit = if self.base2 { std::f64::consts::LN_2 } else { 1.0 };
                        tensor.push(Row { output, lse: f64::from(lse) * unit });
                    }
                }
            }
            outputs.make_read_only();
            lses.make_read_only();
            memory.push((outputs, lses));
            parts.push(tensor);
        }
        let out_size = self.output_type.bytes(1);
        let end = (self.batch - 1) * of_output[0]
            + (self.q_len - 1) * of_output[1]
            + (self.heads - 1) * of_output[2]
            + self.head_dim;
        let lse_end = (self.batch - 1) * of_lse[0]
            + (self.heads - 1) * of_lse[1]
            + (self.q_len - 1) * of_lse[2]
            + 1;
        let output = Guarded::new(0..end * out_size, 0, flush);
        let lse = Guarded::new(0..4 * lse_end, 0, flush);
        let before = [output.touchable(), lse.touchable()];

        let outputs: Vec<*const f32> =
            memory.iter().map(|(outputs, _)| outputs.origin().cast_const().cast()).collect();
        let lses: Vec<*const f32> =
            memory.iter().map(|(_, lses)| lses.origin().cast_const().cast()).collect();
        // SAFETY: all zeros are a description.
        let mut d: kfa_merge_desc = unsafe { std::mem::zeroed() };
        d.struct_size = size_of::<kfa_merge_desc>() as u32;
        d.device = KFA_DEVICE_CPU;
        d.parts = tensors as i32;
        (d.batch, d.q_len) = (self.batch as i32, self.q_len as i32);
        (d.heads, d.head_dim) = (self.heads as i32, self.head_dim as i32);
        d.flags = if self.base2 { KFA_FLAG_LSE_BASE2 } else { 0 };
        (d.outputs, d.lses) = (outputs.as_ptr(), lses.as_ptr());
        d.output = output.origin().cast();
        if !self.no_lse {
            d.lse = lse.origin().cast();
        }
        d.outputs_dtype = self.parts_type.to_c();
        d.output_dtype = self.output_type.to_c();
        if self.strides {
            let signed = |strides: [usize; 3]| strides.map(|stride| stride as i64);
            [d.outputs_batch_stride, d.outputs_row_stride, d.outputs_head_stride] =
                signed(of_parts);
            [d.output_batch_stride, d.output_row_stride, d.output_head_stride] = signed(of_output);
            [d.lses_batch_stride, d.lses_head_stride, d.lses_row_stride] = signed(of_lses);
            [d.lse_batch_stride, d.lse_head_stride, d.lse_row_stride] = signed(of_lse);
        }
        if self.ragged {
            d.part_offsets = offsets.as_ptr();
            d.part_rows = part_rows as i32;
        }
        // SAFETY: the arrays are of the shapes that the description says.
        let status = unsafe { (library.kfa_attention_merge)(&d) };
        let now = [output.touchable(), lse.touchable()];
        if status != KFA_OK {
            if now != before {
                return Err(format!("status {status}, and something was written"));
            }
            let message = library.last_error();
            return match status {
                KFA_ERROR_UNSUPPORTED => Ok(Outcome::Refused(message)),
                // No part at all is nothing to merge.
                KFA_ERROR_INVALID_ARGUMENT if part_rows == 0 => Ok(Outcome::Refused(message)),
                _ => Err(format!("status {status}: {message}")),
            };
        }
        let mut written = [vec![false; now[0].len()], vec![false; now[1].len()]];
        for row in 0..rows {
            for head in 0..self.heads {
                let of_row: Vec<Row> = match self.ragged {
                    true => (offsets[row] as usize..offsets[row + 1] as usize)
                        .map(|part| parts[0][part * self.heads + head].clone())
                        .collect(),
                    false => {
                        parts.iter().map(|part| part[row * self.heads + head].clone()).collect()
                    }
                };
                let nothing = Row { output: vec![0.0; self.head_dim], lse: f64::NEG_INFINITY };
                let mut want = if of_row.is_empty() { nothing } else { merge(&of_row) };
                if self.base2 {
                    want.lse /= std::f64::consts::LN_2;
                }
                let (b, i) = (row / self.q_len, row % self.q_len);
                for (d, want) in want.output.iter().enumerate() {
                    let at = b * of_output[0] + i * of_output[1] + head * of_output[2] + d;
                    let at = output.place(at * out_size);
                    written[0][at..at + out_size].fill(true);
                    let word = words(&now[0][at..at + out_size]);
                    let got = self.output_type.elements(bytes(&word)).at(0, 0);
                    if !close(got, *want, 1e-5 + self.output_type.rounding(*want)) {
                        return Err(format!(
                            "row {row}, head {head}: output[{d}] is {got}, want {want}"
                        ));
                    }
                }
                let at = lse.place(4 * (b * of_lse[0] + head * of_lse[1] + i * of_lse[2]));
                if self.no_lse {
                    continue;
                }
                written[1][at..at + 4].fill(true);
                let got = f32::from_ne_bytes(now[1][at..at + 4].try_into().unwrap());
                if !close(got.into(), want.lse, 1e-5 * want.lse.abs().max(1.0)) {
                    return Err(format!("row {row}, head {head}: lse is {got}, want {}", want.lse));
                }
            }
        }
        for n in 0..2 {
            if (0..now[n].len()).any(|at| !written[n][at] && now[n][at] != before[n][at]) {
                return Err(format!("{} was written beside its rows", ["output", "lse"][n]));
            }
        }
        Ok(Outcome::Served("merge".into()))
    }
}
