//! Where a row of a tensor lies.

use super::{Elements, Sequence};

/// A strided tensor `[batch, rows, heads, dim]`. Strides count elements, or blocks of a block type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tensor<'a> {
    pub data: Elements<'a>,
    pub batch_stride: usize,
    pub row_stride: usize,
    pub head_stride: usize,
}

impl Tensor<'_> {
    /// One head of one row.
    pub fn read(&self, batch: usize, row: usize, head: usize, into: &mut [f64]) {
        let index = batch * self.batch_stride + row * self.row_stride + head * self.head_stride;
        for (i, out) in into.iter_mut().enumerate() {
            *out = self.data.at(index, i);
        }
    }
}

/// Keys or values: dense, or in pages, where `tensor` is `[pages, page_size, kv_heads, dim]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cache<'a> {
    pub tensor: Tensor<'a>,
    pub pages: Option<Pages<'a>>,
    pub quant: Option<Quant<'a>>,
}

/// Which page holds which keys.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    pub page_size: usize,
    pub table: &'a [i32],
    /// Entries from one sequence's pages to the next's; not used with `offsets`.
    pub stride: usize,
    /// Where each sequence's pages begin in the table (CSR).
    pub offsets: Option<&'a [i32]>,
}

/// `value = (stored - zero) · scale`, both by group.
#[derive(Clone, Copy, Debug)]
pub struct Quant<'a> {
    pub scale: Elements<'a>,
    pub zero: Option<Elements<'a>>,
    /// From one batch entry or page, token group, head and channel group to the next; 0 shares.
    pub strides: [usize; 4],
    pub tokens_per_group: usize,
    pub channels_per_group: usize,
}

impl Cache<'_> {
    /// Batch entry (or page) and row of it that hold a sequence's key `key`.
    pub fn place(&self, sequence: &Sequence, key: usize) -> (usize, usize) {
        let Some(pages) = self.pages else {
            return (sequence.cache_batch, sequence.first_key + key);
        };
        let first = match pages.offsets {
            Some(offsets) => offsets[sequence.batch] as usize,
            None => sequence.batch * pages.stride,
        };
        (pages.table[first + key / pages.page_size] as usize, key % pages.page_size)
    }

    /// One head of a sequence's key `key`, dequantised.
    pub fn read(&self, sequence: &Sequence, key: usize, head: usize, into: &mut [f64]) {
        let (batch, row) = self.place(sequence, key);
        self.tensor.read(batch, row, head, into);
        let Some(quant) = self.quant else { return };
        for (i, value) in into.iter_mut().enumerate() {
            let group = [batch, row / quant.tokens_per_group, head, i / quant.channels_per_group];
            let at = group.iter().zip(quant.strides).map(|(n, stride)| n * stride).sum();
            let zero = quant.zero.map_or(0.0, |zero| zero.at(at, 0));
            *value = (*value - zero) * quant.scale.at(at, 0);
        }
    }
}
