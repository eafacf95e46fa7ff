//! From a C description to a [`Spec`], field by field. Nothing here reads a tensor.

use super::memory::{Arrays, Span, extent};
use super::validator::{Validator, invalid, unsupported};
use super::view::{Placed, refuse_self_overlap};
use super::*;

const KNOWN_FLAGS: u32 =
    KFA_FLAG_DETERMINISTIC | KFA_FLAG_BATCH_INVARIANT | KFA_FLAG_FAST_MATH | KFA_FLAG_LSE_BASE2;

/// Validates a description.
///
/// # Safety
/// As [`Problem::new`].
pub unsafe fn validate<E: Refusal>(
    desc: &kfa_attention_desc,
    check: Check,
    names: &Names,
) -> Result<Spec, E> {
    let device = Device::read(desc.device, "device")?;
    let v = Validator::<E>::new(desc, names, check, device);
    // SAFETY: the caller's.
    unsafe { v.spec() }
}

impl<E: Refusal> Validator<'_, E> {
    /// # Safety
    /// As [`Problem::new`].
    unsafe fn spec(&self) -> Result<Spec, E> {
        let (d, names) = (self.desc, self.names);
        let mode = Mode::from_number(d.mode).ok_or_else(|| {
            E::refuse(
                Status::InvalidArgument,
                format_args!("mode is {}; expected {}", d.mode, Mode::EXPECTED),
            )
        })?;
        self.process()?;
        let batch = self.positive(d.batch, "batch")?;
        let q_len = self.positive(d.q_len, "q_len")?;
        let kv_len = self.positive(d.kv_len, "kv_len")?;
        let heads = self.positive(d.heads, "heads")?;
        let kv_heads = self.positive(d.kv_heads, "kv_heads")?;
        let head_dim = self.positive(d.head_dim, "head_dim")?;
        self.not_negative(d.value_head_dim, "value_head_dim")?;
        let value_head_dim =
            if d.value_head_dim == 0 { head_dim } else { d.value_head_dim as usize };
        if heads % kv_heads != 0 {
            return invalid(format_args!(
                "heads is {heads}; expected a multiple of kv_heads ({kv_heads})"
            ));
        }
        let scale = self.scale(head_dim)?;
        // There one float holds the scale times log2 e.
        let whole = scale.is_normal() && (scale * std::f32::consts::LOG2_E).is_normal();
        if self.device == Device::Cuda && !whole {
            return invalid(format_args!(
                "softmax_scale is {scale}; expected a magnitude of 1.2e-38 to 2.3e38 on CUDA"
            ));
        }
        let mut arrays = Arrays::new();
        let visible = self.visible(batch, q_len, &mut arrays)?;
        let scores = self.scores([batch, heads, q_len, kv_len], &mut arrays)?;
        // SAFETY: the caller's.
        let lengths = unsafe { self.lengths([batch, q_len, kv_len], &mut arrays)? };
        // SAFETY: the caller's.
        let pages = unsafe { self.pages(batch, kv_len, &mut arrays)? };
        self.array(&mut arrays, "pos_device", d.pos_device, 4, Some(1))?;
        let ragged = [d.kv_lens, d.kv_offsets, d.q_lens, d.query_offsets];
        if !d.pos_device.is_null() && ragged.iter().any(|array| !array.is_null()) {
            return invalid(format_args!(
                "pos_device is set with lengths or offsets; expected one of them"
            ));
        }

        let packed = !d.query_offsets.is_null();
        let [entries, rows] = if packed { [1, lengths.query_rows.max(1)] } else { [batch, q_len] };
        let [cache_entries, cache_rows] = match &pages {
            Some(pages) => [pages.count, pages.size],
            None if lengths.kv_offsets.is_null() => [lengths.cache_batch, kv_len],
            None => [1, lengths.kv_rows.max(1)],
        };
        let query = self.view(&d.query, [entries, rows, heads, head_dim], names.query)?;
        let key = self.view(&d.key, [cache_entries, cache_rows, kv_heads, head_dim], names.key)?;
        let value_shape = [cache_entries, cache_rows, kv_heads, value_head_dim];
        let value = self.view(&d.value, value_shape, names.value)?;
        let output = self.view(&d.output, [entries, rows, heads, value_head_dim], names.output)?;
        for tensor in [&query, &output] {
            if !tensor.view.dtype.is_float() {
                return unsupported(format_args!(
                    "{}.dtype is {} ({}), which attention is not implemented for; expected fp32, fp16 or bf16",
                    tensor.name,
                    if tensor.name == names.query { d.query.dtype } else { d.output.dtype },
                    tensor.view.dtype
                ));
            }
        }
        let o = output.view;
        refuse_self_overlap(
            "output.",
            [
                (o.batch_stride, entries, "batch"),
                (o.row_stride, rows, "row"),
                (o.head_stride, heads, "head"),
            ],
            value_head_dim,
        )?;
        self.refuse_default_scale_under_mla(&key, &value)?;

        let page_size = d.page_size as usize;
        const KEY: [&str; 3] = ["key_quant", "key_quant->scale", "key_quant->zero"];
        const VALUE: [&str; 3] = ["value_quant", "value_quant->scale", "value_quant->zero"];
        let new_shape = [entries, rows, kv_heads, head_dim];
        // SAFETY: the caller's, for each.
        let (key_quant, value_quant, norm, rope, append) = unsafe {
            (
                self.quant(&key, d.key_quant, KEY, page_size, &mut arrays)?,
                self.quant(&value, d.value_quant, VALUE, page_size, &mut arrays)?,
                self.norm(head_dim, &mut arrays)?,
                self.rope(head_dim, kv_len, entries.saturating_mul(rows), &mut arrays)?,
                self.append(new_shape, value_head_dim, &mut arrays)?,
            )
        };
        let (lse_strides, lse) = self.lse([entries, heads, rows], packed)?;
        let workspace = self.workspace()?;
        if self.all() {
            let mut inputs = [query, key, value, key, value];
            let mut count = 3;
            if let Some((_, [new_key, new_value])) = append {
                (inputs[3], inputs[4], count) = (new_key, new_value, 5);
            }
            self.overlaps(&output, &inputs[..count], append.is_some(), &arrays, lse, workspace)?;
        }

        let mut spec = Spec {
            device: self.device,
            mode,
            deterministic: d.flags & KFA_FLAG_DETERMINISTIC != 0,
            features: Features::NONE,
            batch,
            q_len,
            kv_len,
            heads,
            kv_heads,
            head_dim,
            value_head_dim,
            causal: visible.causal == Causal::BottomRight,
            scale,
            visible,
            scores,
            lengths,
            query: query.view,
            key: key.view,
            value: value.view,
            output: output.view,
            pages,
            key_quant,
            value_quant,
            norm,
            rope,
            append: append.map(|(append, _)| append),
            lse: d.lse,
            lse_strides,
            split_keys: d.split_keys as usize,
            threads: d.threads as usize,
            parallel: d.parallel,
            pool: d.pool,
            workspace: d.workspace.cast(),
            workspace_size: d.workspace_size,
            pos_device: d.pos_device,
            device_index: (d.device_index >= 0).then_some(d.device_index),
            stream: d.stream,
        };
        spec.features = self.features(&spec);
        Ok(spec)
    }

    /// What concerns the process, the device and its threads.
    fn process(&self) -> Result<(), E> {
        let d = self.desc;
        if d.flags & !KNOWN_FLAGS != 0 {
            return invalid(format_args!(
                "flags is {:#x}; expected only KFA_FLAG_* bits ({KNOWN_FLAGS:#x})",
                d.flags
            ));
        }
        if d.device_index < -1 {
            return invalid(format_args!(
                "device_index is {}; expected -1 or a device ordinal",
                d.device_index
            ));
        }
        if self.device == Device::Cpu && !d.stream.is_null() {
            return invalid(format_args!("stream is set; expected NULL on the CPU"));
        }
        self.reserved(d.reserved, "reserved")?;
        self.not_negative(d.threads, "threads")?;
        if self.device != Device::Cpu && (d.threads != 0 || d.parallel.is_some()) {
            return invalid(format_args!(
                "threads is {} or parallel is set; expected neither but on the CPU",
                d.threads
            ));
        }
        if d.parallel.is_some() && d.threads == 0 {
            return invalid(format_args!(
                "threads is 0; expected the number of threads behind parallel"
            ));
        }
        self.not_negative(d.split_keys, "split_keys")?;
        if d.split_keys % 64 != 0 {
            return invalid(format_args!(
                "split_keys is {}; expected a multiple of 64",
                d.split_keys
            ));
        }
        if d.split_keys != 0 && d.flags & KFA_FLAG_BATCH_INVARIANT == 0 {
            return invalid(format_args!(
                "split_keys is {} without KFA_FLAG_BATCH_INVARIANT; expected 0",
                d.split_keys
            ));
        }
        Ok(())
    }

    /// Multi-head latent attention keeps the value within the key, whose size then says nothing about
    /// the scale.
    fn refuse_default_scale_under_mla(&self, key: &Placed, value: &Placed) -> Result<(), E> {
        let (k, v) = (key.view, value.view);
        let strides = |view: &View| [view.batch_stride, view.row_stride, view.head_stride];
        let inside = |whole: &Placed, part: &Placed| {
            let head = whole.view.bytes(whole.shape[3] / whole.view.dtype.stride_elements());
            part.view.data.addr().wrapping_sub(whole.view.data.addr()) < head
        };
        let shared = self.all()
            && k.dtype == v.dtype
            && strides(&k) == strides(&v)
            && (inside(key, value) || inside(value, key));
        if shared && self.desc.softmax_scale == 0.0 {
            return invalid(format_args!(
                "softmax_scale is 0; expected the model's own where key and value share memory"
            ));
        }
        Ok(())
    }

    /// Strides and memory of the LSE of `[batch, heads, rows]`.
    fn lse(&self, [batch, heads, rows]: [usize; 3], packed: bool) -> Result<([usize; 3], Span), E> {
        let d = self.desc;
        let mut strides = [d.lse_batch_stride, d.lse_head_stride, d.lse_row_stride];
        for (axis, stride) in ["batch", "head", "row"].into_iter().zip(strides) {
            if stride < 0 {
                return invalid(format_args!("lse_{axis}_stride is {stride}; expected 0 or more"));
            }
        }
        let elements = batch.checked_mul(heads).and_then(|n| n.checked_mul(rows));
        let fits = |n: &usize| n.checked_mul(4).is_some_and(|bytes| bytes <= isize::MAX as usize);
        if elements.filter(fits).is_none() {
            return invalid(format_args!(
                "batch * heads * q_len ({batch} * {heads} * {rows}) overflows the address space"
            ));
        }
        if strides == [0; 3] {
            let packed = if packed { [0, 1, heads] } else { [heads * rows, rows, 1] };
            strides = packed.map(|stride| stride as i64);
        }
        let strides = strides.map(|stride| stride as usize);
        let [of_batch, of_head, of_row] = strides;
        let axes = [(of_batch, batch), (of_head, heads), (of_row, rows)];
        let Some(elements) = extent(&axes).filter(fits) else {
            return invalid(format_args!("lse of these strides overflows the address space"));
        };
        if d.lse.is_null() {
            return Ok((strides, Span::NONE));
        }
        if self.all() {
            self.aligned(d.lse.cast(), 4, "lse")?;
        }
        refuse_self_overlap(
            "lse_",
            [(of_batch, batch, "batch"), (of_head, heads, "head"), (of_row, rows, "row")],
            1,
        )?;
        Ok((strides, Span::new(d.lse.cast(), elements * 4)))
    }

    fn workspace(&self) -> Result<Span, E> {
        let d = self.desc;
        if self.all() {
            self.aligned(d.workspace.cast(), 4, self.names.workspace)?;
            if d.workspace.is_null() && d.workspace_size > 0 {
                return invalid(format_args!(
                    "workspace is NULL; expected {} bytes as workspace_size says",
                    d.workspace_size
                ));
            }
        }
        Ok(Span::new(d.workspace.cast(), d.workspace_size))
    }

    /// All that a problem asks for beyond plain attention.
    fn features(&self, s: &Spec) -> Features {
        let d = self.desc;
        let flag = |bit: u32| d.flags & bit != 0;
        let plain_lse = [s.heads * s.q_len, s.q_len, 1];
        [
            (Features::CAUSAL_TOP_LEFT, s.visible.causal == Causal::TopLeft),
            (Features::SLIDING_WINDOW, d.sliding_window != 0),
            (Features::WINDOW_RIGHT, d.window_right != 0),
            (Features::ATTENTION_CHUNK, d.attention_chunk != 0),
            (Features::SPANS, !d.span_ends.is_null()),
            (Features::MASK_COLUMNS, d.mask_columns != 0 || d.mask_newest != 0),
            (Features::VALUE_HEAD_DIM, s.value_head_dim != s.head_dim),
            (Features::QUERY_OFFSETS, !d.query_offsets.is_null()),
            (Features::KV_OFFSETS, !d.kv_offsets.is_null()),
            (Features::Q_LENS, !d.q_lens.is_null()),
            (Features::KV_LENS, !d.kv_lens.is_null()),
            (Features::KV_STARTS, !d.kv_starts.is_null()),
            (Features::CACHE_INDEX, !d.cache_index.is_null()),
            (Features::PAGES, s.pages.is_some()),
            (Features::PAGE_OFFSETS, !d.page_offsets.is_null()),
            (Features::VALUE_PAGES, !d.value_page_table.is_null()),
            (Features::QUANTISED_KEYS, !s.key.dtype.is_float()),
            (Features::QUANTISED_VALUES, !s.value.dtype.is_float()),
            (
                Features::LSE_STRIDES,
                !d.lse.is_null() && s.lse_strides != plain_lse && d.query_offsets.is_null(),
            ),
            (Features::LSE_BASE2, flag(KFA_FLAG_LSE_BASE2) && !d.lse.is_null()),
            (Features::BATCH_INVARIANT, flag(KFA_FLAG_BATCH_INVARIANT)),
            (Features::FAST_MATH, flag(KFA_FLAG_FAST_MATH)),
            (Features::NORM, s.norm.is_some()),
            (Features::ROPE, s.rope.is_some()),
            (Features::APPEND, s.append.is_some()),
            (Features::POS_DEVICE, !d.pos_device.is_null()),
            (Features::THREADS, d.threads != 0),
            (Features::HOST_THREADS, d.parallel.is_some()),
        ]
        .into_iter()
        .fold(s.scores.features(), |all, (feature, asked)| all.and(feature.when(asked)))
    }
}
