//! A case laid out in guarded memory as a description, and as the oracle sees the same memory.

use crate::case::{Case, Hides, MaskKind, Ragged, Scales, Strides};
use crate::library::library;
use crate::memory::{Flush, Guarded};
use crate::random::Random;
use crate::storage::Type;
use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::reference::{
    Attention, Cache, Causal, Mask, MaskKind as OracleMask, Pages, Quant, Sequence, Tensor,
};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::rc::Rc;

/// An input: guarded memory for the call, a copy for the oracle.
struct Input {
    memory: Guarded,
    /// As long as the whole run of addresses, and aligned for every type.
    copy: Vec<u64>,
}

impl Input {
    /// Bytes at their offsets; what lies between is NaN, what lies around cannot be touched.
    fn new(pieces: &[(usize, Vec<u8>)], span: usize, flush: Flush) -> Self {
        let start = pieces.iter().map(|(at, _)| *at).min().unwrap_or(0);
        let end = pieces.iter().map(|(at, bytes)| at + bytes.len()).max().unwrap_or(0);
        let mut input = Self {
            memory: Guarded::new(start..end, span, flush),
            copy: vec![u64::MAX; end.div_ceil(8)],
        };
        for (at, bytes) in pieces {
            input.memory.write(*at, bytes);
            input.copy_mut()[*at..][..bytes.len()].copy_from_slice(bytes);
        }
        input
    }

    fn array<T: Copy>(values: &[T], flush: Flush) -> Self {
        // SAFETY: plain numbers.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        let input = Self::new(&[(0, bytes.to_vec())], 0, flush);
        input.memory.make_read_only();
        input
    }

    fn copy(&self) -> &[u8] {
        // SAFETY: any bytes are bytes.
        unsafe { std::slice::from_raw_parts(self.copy.as_ptr().cast(), 8 * self.copy.len()) }
    }

    fn copy_mut(&mut self) -> &mut [u8] {
        // SAFETY: any bytes are bytes.
        unsafe {
            std::slice::from_raw_parts_mut(self.copy.as_mut_ptr().cast(), 8 * self.copy.len())
        }
    }
}

/// A tensor's type and strides, which count units.
#[derive(Clone, Copy)]
struct Layout {
    dtype: Type,
    strides: [usize; 3],
    dim: usize,
    /// Whether the description leaves them 0.
    default: bool,
}

impl Layout {
    fn new(dtype: Type, shape: [usize; 4], strides: Strides, random: &mut Random) -> Self {
        let [_, rows, heads, dim] = shape;
        let unit = dtype.units(dim);
        let gap = |random: &mut Random, most| 2 * random.below(most);
        let strides_of = match strides {
            Strides::Default => [rows * heads * unit, heads * unit, unit],
            Strides::Tokens => {
                let head = unit + gap(random, 3);
                let row = heads * head + gap(random, 4);
                [rows * row + gap(random, 5), row, head]
            }
            Strides::Heads => {
                let row = unit + gap(random, 3);
                let head = rows * row + gap(random, 4);
                [heads * head + gap(random, 5), row, head]
            }
        };
        Self { dtype, strides: strides_of, dim, default: strides == Strides::Default }
    }

    fn at(&self, [batch, row, head]: [usize; 3]) -> usize {
        batch * self.strides[0] + row * self.strides[1] + head * self.strides[2]
    }

    /// Bytes from the first element of such a shape to its last.
    fn span(&self, [batch, rows, heads, _]: [usize; 4]) -> usize {
        self.byte([batch - 1, rows - 1, heads - 1]) + self.dtype.bytes(self.dtype.units(self.dim))
    }

    fn byte(&self, place: [usize; 3]) -> usize {
        self.dtype.bytes(self.at(place))
    }

    fn view(&self, data: *mut u8) -> kfa_tensor_view {
        let [batch, row, head] = if self.default { [0; 3] } else { self.strides.map(|s| s as i64) };
        kfa_tensor_view {
            data: data.cast(),
            dtype: self.dtype.to_c(),
            reserved: 0,
            batch_stride: batch,
            row_stride: row,
            head_stride: head,
        }
    }

    fn tensor<'a>(&self, bytes: &'a [u8]) -> Tensor<'a> {
        let [batch_stride, row_stride, head_stride] = self.strides;
        Tensor { data: self.dtype.elements(bytes), batch_stride, row_stride, head_stride }
    }
}

/// Arrays beside the tensors, as the oracle reads them.
#[derive(Default)]
struct Arrays {
    q_lens: Option<Vec<i32>>,
    kv_lens: Option<Vec<i32>>,
    kv_starts: Option<Vec<i32>>,
    query_offsets: Option<Vec<i32>>,
    kv_offsets: Option<Vec<i32>>,
    cache_index: Option<Vec<i32>>,
    span_ends: Option<Vec<i32>>,
    slopes: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
    mask: Vec<u64>,
    mask_strides: [usize; 3],
    mask_columns: usize,
    mask_offsets: Option<Vec<i64>>,
    mask_factor: Option<Vec<f32>>,
    page_offsets: Option<Vec<i32>>,
    tables: [Vec<i32>; 2],
    table_stride: usize,
}

/// What the scales of one tensor are.
struct Scaling {
    scale: Vec<u64>,
    zero: Option<Vec<u64>>,
    strides: [usize; 4],
    token_group: usize,
    channel_group: usize,
    c: Box<kfa_quant>,
}

/// Everything that one call takes.
pub struct Call {
    pub case: Case,
    pub desc: kfa_attention_desc,
    arrays: Arrays,
    scaling: [Option<Scaling>; 2],
    /// Kept alive, and out of reach of writes.
    inputs: Vec<Input>,
    query: (Rc<Input>, Layout),
    key: (Rc<Input>, Layout),
    value: (Rc<Input>, Layout),
    output_layout: Layout,
    output: Option<Guarded>,
    lse: Option<Guarded>,
    lse_strides: [usize; 3],
    workspace: Option<Guarded>,
    before: Vec<Vec<u8>>,
}

fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: any bytes are bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 8 * words.len()) }
}

fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        })
        .collect()
}

impl Arrays {
    fn new(c: &Case, random: &mut Random) -> Self {
        let mut a = Arrays::default();
        let lengths = |bound: usize, random: &mut Random| -> Vec<i32> {
            (0..c.batch)
                .map(|_| match random.below(4) {
                    0 => bound as i32,
                    1 if random.chance(3) => 0,
                    _ => 1 + random.below(bound) as i32,
                })
                .collect()
        };
        // Packed sequences may begin after a gap, and lengths may be shorter than their room.
        let packed = |bound: usize, random: &mut Random| {
            let mut offsets = vec![random.pick(&[0, 0, 3])];
            for length in lengths(bound, random) {
                offsets.push(offsets[offsets.len() - 1] + length);
            }
            offsets
        };
        let within = |offsets: &Option<Vec<i32>>, bound: usize, random: &mut Random| {
            let Some(offsets) = offsets else { return lengths(bound, random) };
            offsets.windows(2).map(|w| random.below((w[1] - w[0]) as usize + 1) as i32).collect()
        };
        let is_packed = |ragged| matches!(ragged, Ragged::Packed | Ragged::PackedLengths);
        let has_lengths = |ragged| matches!(ragged, Ragged::Lengths | Ragged::PackedLengths);
        a.query_offsets = is_packed(c.queries).then(|| packed(c.q_len, random));
        a.kv_offsets = is_packed(c.keys).then(|| packed(c.kv_len, random));
        a.q_lens = has_lengths(c.queries).then(|| within(&a.query_offsets, c.q_len, random));
        a.kv_lens = has_lengths(c.keys).then(|| within(&a.kv_offsets, c.kv_len, random));
        a.kv_starts = c.starts.then(|| within(&a.kv_offsets, c.kv_len, random));
        a.cache_index =
            c.cache_index.then(|| (0..c.batch).map(|_| random.below(c.batch + 2) as i32).collect());
        a.span_ends = c.spans.then(|| {
            let rows = match &a.query_offsets {
                Some(offsets) => offsets[c.batch] as usize,
                None => c.batch * c.q_len,
            };
            let mut ends = vec![0; rows];
            // Images of some rows, one end each; now and then beyond the sequence.
            let mut row = 0;
            while row < rows {
                let len = 1 + random.below(7);
                if random.chance(2) {
                    let end = random.below(c.kv_len + 3) as i32;
                    ends[row..rows.min(row + len)].fill(end);
                }
                row += len;
            }
            ends
        });
        let heads = c.heads();
        a.slopes = c.alibi.then(|| {
            let count = if c.alibi_per_sequence { c.batch * heads } else { heads };
            (0..count).map(|_| 2f32.powi(-(random.below(8) as i32))).collect()
        });
        a.sinks = c.sinks.then(|| (0..heads).map(|_| 2.0 * random.normal()).collect());
        a
    }

    /// The page tables: each page of each sequence some page of the cache, and -1 where no key is seen.
    fn page(&mut self, c: &Case, seen: &[BTreeSet<usize>], random: &mut Random) -> usize {
        let per_sequence = c.kv_len.div_ceil(c.page_size);
        let pages = c.batch * per_sequence + 2;
        let lengths: Vec<usize> = (0..c.batch)
            .map(|b| match &self.kv_lens {
                Some(lens) if c.csr => (lens[b] as usize).div_ceil(c.page_size),
                _ => per_sequence,
            })
            .collect();
        self.table_stride = per_sequence + random.pick(&[0, 2]);
        let mut first = random.pick(&[0, 1]);
        let mut offsets = vec![first as i32];
        for table in 0..2 {
            let order = random.shuffled(pages);
            let mut entries = vec![-1; if c.csr { first } else { 0 }];
            for b in 0..c.batch {
                let start = entries.len();
                for page in 0..lengths[b] {
                    let keys = page * c.page_size..(page + 1) * c.page_size;
                    let used = seen[b].range(keys).next().is_some();
                    // Sequences may share a page.
                    let share = b > 0 && random.chance(8);
                    let n = if share { page } else { b * per_sequence + page };
                    entries.push(if used { order[n] as i32 } else { -1 });
                }
                if c.csr {
                    if table == 0 {
                        offsets.push(entries.len() as i32);
                    }
                } else {
                    entries.resize(start + self.table_stride, -1);
                }
            }
            self.tables[table] = entries;
        }
        first = self.tables[0].len();
        if c.csr {
            self.page_offsets = Some(offsets);
            self.table_stride = first.max(1);
            for table in &mut self.tables {
                table.resize(self.table_stride, -1);
            }
        }
        pages
    }

    fn build_mask(&mut self, c: &Case, random: &mut Random) {
        let m = &c.mask;
        let columns = if m.columns == 0 { c.kv_len } else { m.columns };
        let heads = if m.share_heads { 1 } else { c.heads() };
        let rows = if m.share_rows { 1 } else { c.q_len };
        let row = columns + random.below(4);
        let head = rows * row + random.below(3);
        let sequence = heads * head + random.below(3);
        let batch = if m.share_batch { 1 } else { c.batch };
        self.mask_columns = columns;
        self.mask_strides = [
            if m.share_batch { 0 } else { sequence },
            if m.share_heads { 0 } else { head },
            if m.share_rows { 0 } else { row },
        ];
        if m.offsets {
            let order = random.shuffled(batch);
            let first = |b: usize| (order[b % batch] * sequence) as i64;
            self.mask_offsets = Some((0..c.batch).map(first).collect());
        }
        let elements = batch * sequence;
        let mut hidden = vec![false; elements];
        for (at, hidden) in hidden.iter_mut().enumerate() {
            let (i, column) = (at % head / row, at % row);
            *hidden = match m.hides {
                Hides::Some => random.chance(4),
                Hides::Nothing => false,
                Hides::Most => !random.chance(40),
                Hides::Future => column + rows > columns + i,
            };
        }
        let bytes: Vec<u8> = match m.kind {
            MaskKind::None => return,
            MaskKind::Boolean => {
                hidden.iter().map(|h| if *h { 0 } else { random.pick(&[1, 255]) }).collect()
            }
            MaskKind::Bits => hidden
                .chunks(8)
                .map(|bits| bits.iter().rev().fold(0, |byte, h| byte << 1 | u8::from(!h)))
                .collect(),
            MaskKind::Additive => hidden
                .iter()
                .flat_map(|h| {
                    let value = if *h { f32::NEG_INFINITY } else { random.normal() };
                    m.dtype.float(value)
                })
                .collect(),
        };
        self.mask = words_of(&bytes);
        if m.head_factor {
            self.mask_factor =
                Some((0..c.heads()).map(|_| random.pick(&[0.0, 0.5, 1.0, -1.0, 1.5])).collect());
        }
    }

    /// The oracle's problem without tensors.
    fn attention(&self, c: &Case) -> Attention<'_> {
        let mask = bytes_of(&self.mask);
        let kind = match c.mask.kind {
            MaskKind::None => None,
            MaskKind::Boolean => Some(OracleMask::Boolean(mask)),
            MaskKind::Bits => Some(OracleMask::Bits(mask)),
            MaskKind::Additive => Some(OracleMask::Additive(c.mask.dtype.elements(mask))),
        };
        let [batch_stride, head_stride, row_stride] = self.mask_strides;
        Attention {
            batch: c.batch,
            q_len: c.q_len,
            kv_len: c.kv_len,
            heads: c.heads(),
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            value_head_dim: c.value_head_dim,
            scale: f64::from(scale(c)),
            softcap: c.softcap.into(),
            causal: [Causal::None, Causal::BottomRight, Causal::TopLeft][c.causal as usize],
            window: c.window as usize,
            window_right: (c.window_right > 0).then_some(c.window_right as usize),
            chunk: c.chunk as usize,
            span_ends: self.span_ends.as_deref(),
            q_lens: self.q_lens.as_deref(),
            kv_lens: self.kv_lens.as_deref(),
            kv_starts: self.kv_starts.as_deref(),
            query_offsets: self.query_offsets.as_deref(),
            kv_offsets: self.kv_offsets.as_deref(),
            cache_index: self.cache_index.as_deref(),
            alibi_slopes: self
                .slopes
                .as_deref()
                .map(|slopes| (slopes, if c.alibi_per_sequence { c.heads() } else { 0 })),
            mask: kind.map(|kind| Mask {
                kind,
                batch_stride,
                head_stride,
                row_stride,
                columns: self.mask_columns,
                newest: c.mask.newest,
                offsets: self.mask_offsets.as_deref(),
                head_factor: self.mask_factor.as_deref(),
            }),
            sinks: self.sinks.as_deref(),
            lse_base2: c.lse_base2,
            ..Attention::default()
        }
    }

    fn pages(&self, c: &Case, which: usize) -> Option<Pages<'_>> {
        (c.page_size > 0).then(|| Pages {
            page_size: c.page_size,
            table: &self.tables[if c.value_table { which } else { 0 }],
            stride: self.table_stride,
            offsets: self.page_offsets.as_deref(),
        })
    }
}

/// The scale of the description; 0 is the default.
fn scale(c: &Case) -> f32 {
    if c.default_scale { 0.0 } else { 1.25 / (c.head_dim as f32).sqrt() }
}

impl Scaling {
    fn new(c: &Case, dtype: Type, shape: [usize; 4], random: &mut Random) -> Option<Self> {
        if !dtype.is_scaled() {
            return None;
        }
        let [batch, rows, heads, dim] = shape;
        let channel_group = match c.scales {
            Scales::Channel => 1,
            Scales::Groups if dim.is_multiple_of(8) => 8,
            _ => dim,
        };
        let token_group = match c.scales {
            Scales::Groups if c.page_size > 0 => {
                [4, 3, 1].into_iter().find(|n| c.page_size.is_multiple_of(*n)).unwrap_or(1)
            }
            Scales::Groups => 5,
            _ => 1,
        };
        let (channels, tokens) = (dim / channel_group, rows.div_ceil(token_group));
        let strides = match c.scales {
            Scales::Tensor => [0; 4],
            Scales::Head => [0, 0, 1, 0],
            Scales::TokenAndHead => [tokens * heads, heads, 1, 0],
            Scales::Channel => [0, 0, channels, 1],
            Scales::Groups => [tokens * heads * channels, heads * channels, channels, 1],
        };
        let last: usize = [batch, tokens, heads, channels]
            .into_iter()
            .zip(strides)
            .map(|(size, stride)| (size - 1) * stride)
            .sum();
        let mut scales = vec![];
        let mut zeros = vec![];
        for _ in 0..=last {
            let factor = 0.5 + random.below(128) as f32 / 128.0;
            scales.extend(c.scale_dtype.float(dtype.scale() * factor));
            let middle = match dtype {
                Type::U8 => 128.0,
                Type::U4 => 8.0,
                _ => 0.0,
            };
            zeros.extend(c.scale_dtype.float(middle + random.below(3) as f32 - 1.0));
        }
        let (batch_stride, token_stride, head_stride, channel_stride) =
            (strides[0] as i64, strides[1] as i64, strides[2] as i64, strides[3] as i64);
        Some(Self {
            scale: words_of(&scales),
            zero: c.zeros.then(|| words_of(&zeros)),
            strides,
            token_group,
            channel_group,
            c: Box::new(kfa_quant {
                struct_size: size_of::<kfa_quant>() as u32,
                dtype: c.scale_dtype.to_c(),
                scale: std::ptr::null(),
                zero: std::ptr::null(),
                token_group: if token_group == 1 { 0 } else { token_group as i32 },
                channel_group: if channel_group == dim { 0 } else { channel_group as i32 },
                batch_stride,
                token_stride,
                head_stride,
                channel_stride,
            }),
        })
    }

    fn quant(&self, c: &Case) -> Quant<'_> {
        Quant {
            scale: c.scale_dtype.elements(bytes_of(&self.scale)),
            zero: self.zero.as_ref().map(|zero| c.scale_dtype.elements(bytes_of(zero))),
            strides: self.strides,
            tokens_per_group: self.token_group,
            channels_per_group: self.channel_group,
        }
    }
}

impl Call {
    pub fn new(case: Case) -> Self {
        let c = &case;
        let random = &mut Random(c.seed);
        let flush = if c.flush_start { Flush::Start } else { Flush::End };
        let mut arrays = Arrays::new(c, random);
        arrays.build_mask(c, random);

        // Which keys some row of each sequence may see.
        let seen: Vec<BTreeSet<usize>> = {
            let attention = arrays.attention(c);
            (0..c.batch)
                .map(|b| {
                    let sequence = attention.sequence(b);
                    if c.mapped {
                        return (0..sequence.kv_len).collect();
                    }
                    let rows = 0..sequence.q_len;
                    rows.flat_map(|row| attention.visible(&sequence, row)).collect()
                })
                .collect()
        };
        let pages = if c.page_size > 0 { arrays.page(c, &seen, random) } else { 0 };

        let attention = arrays.attention(c);
        let sequences: Vec<Sequence> = (0..c.batch).map(|b| attention.sequence(b)).collect();
        let packed_rows =
            |offsets: &Option<Vec<i32>>| offsets.as_ref().map(|o| o[c.batch] as usize);
        let (entries, rows) = match packed_rows(&arrays.query_offsets) {
            Some(rows) => (1, rows.max(1)),
            None => (c.batch, c.q_len),
        };
        let (cache_entries, cache_rows) = match packed_rows(&arrays.kv_offsets) {
            _ if c.page_size > 0 => (pages, c.page_size),
            Some(rows) => (1, rows.max(1)),
            None if c.cache_index => (c.batch + 2, c.kv_len),
            None => (c.batch, c.kv_len),
        };
        let query_shape = [entries, rows, c.heads(), c.head_dim];
        let key_shape = [cache_entries, cache_rows, c.kv_heads, c.head_dim];
        let value_shape = [cache_entries, cache_rows, c.kv_heads, c.value_head_dim];
        let query_layout = Layout::new(c.query, query_shape, c.query_strides, random);
        let mut key_layout = Layout::new(c.key, key_shape, c.kv_strides, random);
        let mut value_layout = Layout::new(c.value, value_shape, c.kv_strides, random);
        if c.shared_keys {
            key_layout.strides[0] = 0;
            value_layout.strides[0] = 0;
        }
        if c.mla {
            value_layout = Layout { dim: c.value_head_dim, default: false, ..key_layout };
        }
        let output_layout = if c.in_place {
            query_layout
        } else {
            let shape = [entries, rows, c.heads(), c.value_head_dim];
            Layout::new(c.output, shape, c.output_strides, random)
        };

        // The query's rows.
        let mut pieces = vec![];
        for s in &sequences {
            for row in 0..s.q_len {
                for head in 0..c.heads() {
                    let at = query_layout.byte([s.query_batch, s.first_query + row, head]);
                    pieces.push((at, c.query.encode(c.head_dim, 1.0, random)));
                }
            }
        }
        let query = Input::new(&pieces, query_layout.span(query_shape), flush);
        if !c.in_place {
            query.memory.make_read_only();
        }

        // The keys that some row sees; a mask may hide them from all.
        let cache = |layout: &Layout, which: usize, random: &mut Random| {
            let pages = arrays.pages(c, which);
            let place = Cache { tensor: Tensor::default(), pages, quant: None };
            let mut pieces = vec![];
            let mut filled = BTreeSet::new();
            for (s, keys) in sequences.iter().zip(&seen) {
                for key in keys {
                    let (batch, row) = place.place(s, *key);
                    for head in 0..c.kv_heads {
                        let at = layout.byte([batch, row, head]);
                        if filled.insert(at) {
                            pieces.push((at, layout.dtype.encode(layout.dim, 1.0, random)));
                        }
                    }
                }
            }
            if c.nan && layout.dtype.is_float() && !pieces.is_empty() {
                let n = random.below(pieces.len());
                let bytes = &mut pieces[n].1;
                // Any NaN: the payload's bits are random, but not all 0.
                let size = layout.dtype.bytes(1);
                let element = &mut bytes[..size];
                element.iter_mut().for_each(|byte| *byte = random.next() as u8 | 1);
                element[size - 1] = random.pick(&[0x7f, 0xff]);
                element[size - 2] |= if layout.dtype == Type::F16 { 0x01 } else { 0x80 };
            }
            let input = Input::new(&pieces, layout.span(key_shape), flush);
            input.memory.make_read_only();
            Rc::new(input)
        };
        let key = cache(&key_layout, 0, random);
        let value = if c.mla { key.clone() } else { cache(&value_layout, 1, random) };

        let scaling = [
            Scaling::new(c, c.key, key_shape, random),
            if c.mla { None } else { Scaling::new(c, c.value, value_shape, random) },
        ];
        let mut call = Self {
            desc: library().default_desc(),
            scaling,
            inputs: vec![],
            query: (Rc::new(query), query_layout),
            key: (key, key_layout),
            value: (value, value_layout),
            output_layout,
            output: None,
            lse: None,
            lse_strides: [0; 3],
            workspace: None,
            before: vec![],
            arrays,
            case,
        };
        call.place_results([entries, rows], flush, random);
        call.describe([rows, cache_rows], pages, flush);
        call.before = call.writable().iter().map(|memory| memory.touchable()).collect();
        call
    }

    /// Output and LSE: the rows that sequences have, and no byte around them.
    fn place_results(&mut self, [entries, rows]: [usize; 2], flush: Flush, random: &mut Random) {
        let c = &self.case;
        let heads = c.heads();
        self.lse_strides = match (c.lse_strides, c.queries) {
            (true, _) => {
                let row = heads + random.below(3);
                [rows * row + random.below(4), 1, row]
            }
            (false, Ragged::Packed | Ragged::PackedLengths) => [0, 1, heads],
            (false, _) => [heads * rows, rows, 1],
        };
        let span = self.output_layout.span([entries, rows, heads, 0]);
        let (mut output, mut lse) = (None, None);
        let width = self.output_layout.dtype.bytes(self.output_layout.dim);
        let extend = |range: &mut Option<std::ops::Range<usize>>, at: usize, width: usize| {
            let whole = range.take().unwrap_or(at..at + width);
            *range = Some(whole.start.min(at)..whole.end.max(at + width));
        };
        for (place, head) in self.results() {
            extend(&mut output, self.output_layout.byte([place[0], place[1], head]), width);
            extend(&mut lse, 4 * self.lse_at(place, head), 4);
        }
        let lse_last = self.lse_at([entries - 1, rows - 1], heads - 1);
        let c = &self.case;
        if !c.in_place {
            self.output = Some(Guarded::new(output.unwrap_or(0..0), span, flush));
        }
        if c.lse {
            self.lse = Some(Guarded::new(lse.unwrap_or(0..0), 4 * (lse_last + 1), flush));
        }
    }

    /// Batch entry and row of query and output, with each head, of all rows that sequences have.
    fn results(&self) -> Vec<([usize; 2], usize)> {
        let attention = self.arrays.attention(&self.case);
        let mut all = vec![];
        for b in 0..self.case.batch {
            let s = attention.sequence(b);
            for row in 0..s.q_len {
                let place = [s.query_batch, s.first_query + row];
                all.extend((0..self.case.heads()).map(|head| (place, head)));
            }
        }
        all
    }

    fn lse_at(&self, [batch, row]: [usize; 2], head: usize) -> usize {
        let [of_batch, of_head, of_row] = self.lse_strides;
        batch * of_batch + head * of_head + row * of_row
    }

    fn writable(&self) -> Vec<&Guarded> {
        let output = self.output.as_ref().unwrap_or(&self.query.0.memory);
        [Some(output), self.lse.as_ref(), self.workspace.as_ref()].into_iter().flatten().collect()
    }

    /// Puts an array into guarded memory and returns its address; null for none.
    fn array<T: Copy>(&mut self, values: Option<&[T]>, flush: Flush) -> *const T {
        let Some(values) = values else { return std::ptr::null() };
        let input = Input::array(values, flush);
        let data = input.memory.origin().cast_const().cast();
        self.inputs.push(input);
        data
    }

    /// An array in guarded memory, kept as long as the call.
    pub fn keep(&mut self, values: &[i32]) -> *const i32 {
        self.array(Some(values), Flush::End)
    }

    fn describe(&mut self, rows: [usize; 2], pages: usize, flush: Flush) {
        let c = self.case.clone();
        let arrays = std::mem::take(&mut self.arrays);
        let mut d = library().default_desc();
        d.flags = [
            (KFA_FLAG_DETERMINISTIC, c.deterministic),
            (KFA_FLAG_BATCH_INVARIANT, c.batch_invariant),
            (KFA_FLAG_LSE_BASE2, c.lse_base2),
        ]
        .into_iter()
        .map(|(flag, set)| if set { flag } else { 0 })
        .sum();
        d.mode = c.mode;
        d.is_causal = c.causal;
        d.batch = c.batch as i32;
        (d.q_len, d.kv_len) = (c.q_len as i32, c.kv_len as i32);
        (d.heads, d.kv_heads) = (c.heads() as i32, c.kv_heads as i32);
        d.head_dim = c.head_dim as i32;
        d.value_head_dim = if c.value_head_dim == c.head_dim { 0 } else { c.value_head_dim as i32 };
        d.softmax_scale = scale(&c);
        d.softcap = c.softcap;
        (d.sliding_window, d.window_right, d.attention_chunk) = (c.window, c.window_right, c.chunk);
        d.split_keys = c.split_keys;
        d.query = self.query.1.view(self.query.0.memory.origin());
        d.key = self.key.1.view(self.key.0.memory.origin());
        d.value = self.value.1.view(self.value.0.memory.origin());
        let output = self.output.as_ref().unwrap_or(&self.query.0.memory);
        d.output = self.output_layout.view(output.origin());
        if let Some(lse) = &self.lse {
            d.lse = lse.origin().cast();
        }
        if c.lse_strides {
            [d.lse_batch_stride, d.lse_head_stride, d.lse_row_stride] =
                self.lse_strides.map(|stride| stride as i64);
        }
        d.query_offsets = self.array(arrays.query_offsets.as_deref(), flush);
        d.kv_offsets = self.array(arrays.kv_offsets.as_deref(), flush);
        // Asked without memory, the library takes the bound for the rows, which head-major strides of
        // fewer rows do not fit.
        if arrays.query_offsets.is_some() {
            d.query_rows = rows[0] as i32;
        }
        if arrays.kv_offsets.is_some() {
            d.kv_rows = rows[1] as i32;
        }
        d.q_lens = self.array(arrays.q_lens.as_deref(), flush);
        d.kv_lens = self.array(arrays.kv_lens.as_deref(), flush);
        d.kv_starts = self.array(arrays.kv_starts.as_deref(), flush);
        d.cache_index = self.array(arrays.cache_index.as_deref(), flush);
        if c.cache_index {
            d.cache_batch = c.batch as i32 + 2;
        }
        d.span_ends = self.array(arrays.span_ends.as_deref(), flush);
        d.alibi_slopes = self.array(arrays.slopes.as_deref(), flush);
        d.alibi_batch_stride = if c.alibi_per_sequence { c.heads() as i64 } else { 0 };
        d.sinks = self.array(arrays.sinks.as_deref(), flush);
        if c.mask.kind != MaskKind::None {
            let [batch_stride, head_stride, row_stride] =
                arrays.mask_strides.map(|stride| stride as i64);
            d.mask = kfa_attention_mask {
                // In whole words, so that the last few bytes are no guard.
                data: self.array(Some(&arrays.mask), flush).cast::<c_void>(),
                kind: match c.mask.kind {
                    MaskKind::Boolean => KFA_MASK_BOOLEAN,
                    MaskKind::Bits => KFA_MASK_BITS,
                    _ => KFA_MASK_ADDITIVE,
                },
                dtype: c.mask.dtype.to_c(),
                batch_stride,
                head_stride,
                row_stride,
            };
            d.mask_columns = c.mask.columns as i32;
            d.mask_newest = c.mask.newest.into();
            d.mask_offsets = self.array(arrays.mask_offsets.as_deref(), flush);
            d.mask_head_factor = self.array(arrays.mask_factor.as_deref(), flush);
        }
        if c.page_size > 0 {
            d.page_size = c.page_size as i32;
            d.pages = pages as i32;
            d.page_table = self.array(Some(&arrays.tables[0]), flush);
            d.page_table_stride = arrays.table_stride as i64;
            if c.value_table {
                d.value_page_table = self.array(Some(&arrays.tables[1]), flush);
            }
            d.page_offsets = self.array(arrays.page_offsets.as_deref(), flush);
        }
        let mut scaling = std::mem::take(&mut self.scaling);
        for scaling in scaling.iter_mut().flatten() {
            scaling.c.scale = self.array(Some(&scaling.scale), flush).cast();
            scaling.c.zero = self.array(scaling.zero.as_deref(), flush).cast();
        }
        self.scaling = scaling;
        let pointer = |scaling: &Option<Scaling>| {
            scaling.as_ref().map_or(std::ptr::null(), |scaling| &raw const *scaling.c)
        };
        d.key_quant = pointer(&self.scaling[0]);
        d.value_quant = pointer(&self.scaling[if c.mla { 0 } else { 1 }]);
        d.threads = c.threads;
        if c.host_threads {
            d.parallel = Some(one_after_the_other);
        }
        self.arrays = arrays;
        self.desc = d;
    }

    /// Gives the call a workspace of exactly so many bytes.
    pub fn give_workspace(&mut self, bytes: usize) {
        let workspace = Guarded::new(0..bytes.next_multiple_of(4), 0, Flush::End);
        self.desc.workspace =
            if bytes == 0 { std::ptr::null_mut() } else { workspace.origin().cast() };
        self.desc.workspace_size = bytes;
        self.workspace = Some(workspace);
        self.before = self.writable().iter().map(|memory| memory.touchable()).collect();
    }

    /// The problem as the oracle sees it.
    pub fn attention(&self) -> Attention<'_> {
        let c = &self.case;
        let cache = |(input, layout): &'_ (Rc<Input>, Layout), which: usize| -> Cache<'_> {
            // SAFETY: the input lives as long as the call.
            let bytes: &[u8] = unsafe { &*std::ptr::from_ref(input.copy()) };
            Cache {
                tensor: layout.tensor(bytes),
                pages: self.arrays.pages(c, which),
                quant: self.scaling[if c.mla { 0 } else { which }].as_ref().map(|s| s.quant(c)),
            }
        };
        Attention {
            query: self.query.1.tensor(self.query.0.copy()),
            key: cache(&self.key, 0),
            value: cache(&self.value, 1),
            ..self.arrays.attention(c)
        }
    }

    /// What of the writable memory is not as it was before the call.
    pub fn anything_written(&self) -> Option<&'static str> {
        let names = ["output", "lse or workspace", "workspace"];
        let mut now =
            self.writable().into_iter().map(Guarded::touchable).zip(&self.before).zip(names);
        now.find(|((now, before), _)| now != *before).map(|(_, name)| name)
    }

    /// Compares the results with the oracle's; says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let c = &self.case;
        let attention = self.attention();
        let output = self.output.as_ref().unwrap_or(&self.query.0.memory);
        let (bytes, lse) = (output.touchable(), self.lse.as_ref().map(Guarded::touchable));
        let layout = &self.output_layout;
        let mut written = [vec![false; bytes.len()], vec![]];
        written[1].resize(lse.as_ref().map_or(0, Vec::len), false);
        for b in 0..c.batch {
            let s = attention.sequence(b);
            for row in 0..s.q_len {
                for head in 0..c.heads() {
                    let want = attention.row(b, row, head);
                    let place = [s.query_batch, s.first_query + row];
                    let name = format!("sequence {b}, row {row}, head {head}");
                    for (i, want) in want.output.iter().enumerate() {
                        let at = layout.byte([place[0], place[1], head]) + layout.dtype.bytes(i);
                        let at = output.place(at);
                        let size = layout.dtype.bytes(1);
                        written[0][at..at + size].fill(true);
                        let word = words_of(&bytes[at..at + size]);
                        let got = layout.dtype.elements(bytes_of(&word)).at(0, 0);
                        let bar = 1e-5 + layout.dtype.rounding(*want);
                        if !close(got, *want, bar) {
                            return Err(format!("{name}: output[{i}] is {got}, want {want}"));
                        }
                    }
                    let Some(lse) = &lse else { continue };
                    let at = self.lse.as_ref().unwrap().place(4 * self.lse_at(place, head));
                    written[1][at..at + 4].fill(true);
                    let got = f32::from_ne_bytes(lse[at..at + 4].try_into().unwrap());
                    if !close(got.into(), want.lse, 1e-5 * want.lse.abs().max(1.0)) {
                        return Err(format!("{name}: lse is {got}, want {}", want.lse));
                    }
                }
            }
        }
        for (n, (name, now)) in [("output", Some(&bytes)), ("lse", lse.as_ref())].iter().enumerate()
        {
            let Some(now) = now else { continue };
            let beside = |at: &usize| !written[n][*at] && now[*at] != self.before[n][*at];
            if let Some(at) = (0..now.len()).find(beside) {
                return Err(format!("byte {at} beside the {name}'s rows was written"));
            }
        }
        Ok(())
    }
}

/// Equal, both NaN, or closer than the bar.
pub fn close(got: f64, want: f64, bar: f64) -> bool {
    got == want || got.is_nan() && want.is_nan() || (got - want).abs() < bar
}

/// Host threads that are none: the order is turned round, which must not matter.
unsafe extern "C" fn one_after_the_other(
    _pool: *mut c_void,
    tasks: i32,
    task: kfa_task,
    argument: *mut c_void,
) {
    for index in (0..tasks).rev() {
        // SAFETY: the library's own task and argument, each index once.
        unsafe { task.unwrap()(argument, index) };
    }
}
