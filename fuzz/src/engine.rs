//! The engine's calls: the getters' kernels and the layer, over caches of several layers.

use crate::call::close;
use crate::case::Choose;
use crate::library::library;
use crate::memory::{Flush, Guarded};
use crate::random::Random;
use crate::run::Outcome;
use crate::storage::Type;
use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::reference::{Attention, Cache, Causal, Tensor};
use serde::{Deserialize, Serialize};
use std::ptr::null_mut;

/// Which function serves the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Through {
    #[default]
    FlashKernel,
    MhaKernel,
    StandardKernel,
    Layer,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineCase {
    pub seed: u64,
    pub through: Through,
    pub kv_heads: usize,
    pub group: usize,
    pub head_size: usize,
    pub q_len: usize,
    /// The newest row's position.
    pub pos: usize,
    pub seq_len: usize,
    pub layers: usize,
    pub layer: usize,
    pub in_place: bool,
    pub dtype: Type,
    /// What to spoil; 0 is nothing.
    pub mutation: usize,
}

impl EngineCase {
    pub fn choose(seed: u64, choose: Choose) -> Self {
        let through =
            [Through::FlashKernel, Through::MhaKernel, Through::StandardKernel, Through::Layer];
        let pos = [0, 1, 30, 200, 1500][choose("pos", 5)];
        let layers = 1 + choose("layers", 4);
        Self {
            seed,
            through: through[choose("through", 4)],
            kv_heads: [1, 2, 4][choose("kv_heads", 3)],
            group: [1, 2, 4, 7][choose("group", 4)],
            head_size: [64, 128, 48, 1, 80, 256][choose("head_size", 6)],
            q_len: [1, 1, 2, 9, 31][choose("q_len", 5)].min(pos + 1),
            pos,
            seq_len: pos + 1 + [0, 1, 50][choose("spare", 3)],
            layers,
            layer: choose("layer", layers),
            in_place: choose("in_place", 3) == 1,
            dtype: Type::FLOATS[choose("type", 6).saturating_sub(3)],
            mutation: choose("mutation", 16).saturating_sub(7),
        }
    }

    /// Runs the call; an error says what is wrong with the library.
    pub fn run(&self) -> Result<Outcome, String> {
        let library = library();
        let random = &mut Random(self.seed);
        let heads = self.kv_heads * self.group;
        let (dim, kv_dim) = (self.head_size, self.kv_heads * self.head_size);
        let size = self.dtype.bytes(1);
        let flush = random.pick(&[Flush::Start, Flush::End]);
        let encode = |count, random: &mut Random| self.dtype.encode(count, 1.0, random);

        let count = self.q_len * heads * dim;
        let numbers = encode(count, random);
        let mut query = Guarded::new(0..count * size, 0, flush);
        query.write(0, &numbers);
        let output = Guarded::new(0..count * size, 0, flush);
        // Only the valid keys of one layer can be touched.
        let first = self.layer * self.seq_len * kv_dim;
        let valid = (self.pos + 1) * kv_dim;
        let whole = self.layers * self.seq_len * kv_dim;
        let mut caches = vec![];
        let mut copies = vec![];
        for _ in 0..2 {
            let numbers = encode(valid, random);
            let used = first * size..(first + valid) * size;
            let mut cache = Guarded::new(used, whole * size, flush);
            cache.write(first * size, &numbers);
            cache.make_read_only();
            caches.push(cache);
            copies.push(words(&numbers));
        }
        if !self.in_place {
            query.make_read_only();
        }
        let score = Guarded::new(0..4 * heads * self.seq_len, 0, Flush::End);

        let target = if self.in_place { &query } else { &output };
        let before = target.touchable();
        let tensor = |memory: &Guarded, count: usize, dtype: Type| kfa_tensor {
            data: memory.origin().cast(),
            size: count as i64,
            dtype: dtype.to_c(),
            device: KFA_DEVICE_CPU,
        };
        let mut a = Arguments {
            query: tensor(&query, count, self.dtype),
            key: tensor(&caches[0], whole, self.dtype),
            value: tensor(&caches[1], whole, self.dtype),
            output: tensor(target, count, self.dtype),
            score: tensor(&score, heads * self.seq_len, Type::F32),
            heads: heads as i32,
            kv_heads: self.kv_heads as i32,
            kv_mul: self.group as i32,
            kv_dim: kv_dim as i32,
            head_size: dim as i32,
            seq_len: self.seq_len as i32,
            pos: self.pos as i32,
            layer: self.layer as i32,
            scale: 0.0,
        };
        if matches!(self.through, Through::FlashKernel | Through::Layer) {
            // The others take none. Smaller than the default, so that scores stay of unit size, which the
            // bar of error is for.
            a.scale = random.pick(&[0.0, 0.8]) / (dim as f32).sqrt();
        }
        let wrong = a.spoil(self.mutation, self.through);
        let scale = f64::from(a.scale);
        // SAFETY: the memory is as the arguments say, or they are refused.
        let status = unsafe { a.call(self.through) };

        let now = target.touchable();
        if status != KFA_OK {
            let message = library.last_error();
            if now != before {
                return Err(format!("{self:?}: status {status}, and the output was written"));
            }
            return match status {
                KFA_ERROR_UNSUPPORTED => Ok(Outcome::Refused(message)),
                KFA_ERROR_INVALID_ARGUMENT if wrong && !message.is_empty() => {
                    Ok(Outcome::Served("mutated".into()))
                }
                _ => Err(format!("status {status}: {message}")),
            };
        }
        if wrong {
            return Err(format!("mutation {} was accepted", self.mutation));
        }
        let numbers = words(&numbers);
        let kv = |copy| Cache {
            tensor: Tensor {
                data: self.dtype.elements(bytes(copy)),
                batch_stride: 0,
                row_stride: kv_dim,
                head_stride: dim,
            },
            ..Cache::default()
        };
        let attention = Attention {
            batch: 1,
            q_len: self.q_len,
            kv_len: self.pos + 1,
            heads,
            kv_heads: self.kv_heads,
            head_dim: dim,
            value_head_dim: dim,
            scale,
            causal: Causal::BottomRight,
            query: Tensor {
                data: self.dtype.elements(bytes(&numbers)),
                batch_stride: 0,
                row_stride: heads * dim,
                head_stride: dim,
            },
            key: kv(&copies[0]),
            value: kv(&copies[1]),
            ..Attention::default()
        };
        for row in 0..self.q_len {
            for head in 0..heads {
                for (i, want) in attention.row(0, row, head).output.iter().enumerate() {
                    let at = target.place(((row * heads + head) * dim + i) * size);
                    let word = words(&now[at..at + size]);
                    let got = self.dtype.elements(bytes(&word)).at(0, 0);
                    if !close(got, *want, 1e-5 + self.dtype.rounding(*want)) {
                        let name = library.last_kernel();
                        return Err(format!(
                            "{name}: row {row}, head {head}: output[{i}] is {got}, want {want}"
                        ));
                    }
                }
            }
        }
        Ok(Outcome::Served(format!("{:?}", self.through)))
    }
}

struct Arguments {
    query: kfa_tensor,
    key: kfa_tensor,
    value: kfa_tensor,
    output: kfa_tensor,
    score: kfa_tensor,
    heads: i32,
    kv_heads: i32,
    kv_mul: i32,
    kv_dim: i32,
    head_size: i32,
    seq_len: i32,
    pos: i32,
    layer: i32,
    scale: f32,
}

impl Arguments {
    /// Makes one argument wrong, if the function takes it; whether it did.
    fn spoil(&mut self, mutation: usize, through: Through) -> bool {
        match mutation {
            1 => self.pos = self.seq_len,
            2 => self.pos = i32::MAX,
            3 => self.layer = i32::MAX,
            4 => self.layer = -1,
            5 => self.query.data = null_mut(),
            6 => {
                let keys =
                    i64::from(self.layer) * i64::from(self.seq_len) + i64::from(self.pos) + 1;
                self.value.size = keys * i64::from(self.kv_dim) - 1;
            }
            7 => self.key.dtype = KFA_DTYPE_UNKNOWN,
            8 if matches!(through, Through::FlashKernel | Through::Layer) => self.scale = f32::NAN,
            _ => return false,
        }
        true
    }

    /// # Safety
    /// The memory is as the arguments say, or they are wrong.
    unsafe fn call(&self, through: Through) -> kfa_status {
        let library = library();
        // SAFETY: the caller's; for the getters, any device may be named.
        unsafe {
            match through {
                Through::FlashKernel => {
                    let kernel = (library.kfa_get_flash_attention_kernel)(KFA_DEVICE_CPU).unwrap();
                    kernel(
                        &self.query,
                        &self.key,
                        &self.value,
                        &self.output,
                        self.heads,
                        self.kv_heads,
                        self.head_size,
                        self.seq_len,
                        self.pos,
                        self.layer,
                        self.scale,
                        true,
                        KFA_DEVICE_CPU,
                        null_mut(),
                    )
                }
                Through::MhaKernel | Through::StandardKernel => {
                    let kernel = match through {
                        Through::MhaKernel => (library.kfa_get_mha_kernel)(KFA_DEVICE_CPU),
                        _ => (library.kfa_get_standard_mha_kernel)(KFA_DEVICE_CPU),
                    };
                    kernel.unwrap()(
                        self.pos,
                        self.heads,
                        self.layer,
                        self.seq_len,
                        self.kv_dim,
                        self.kv_mul,
                        self.head_size,
                        &self.output,
                        &self.query,
                        &self.score,
                        &self.key,
                        &self.value,
                        KFA_DEVICE_CPU,
                        null_mut(),
                    )
                }
                Through::Layer => self.layer(),
            }
        }
    }

    /// The layer's calls in the engine's order; the first status that is none of success.
    ///
    /// # Safety
    /// As [`Self::call`].
    unsafe fn layer(&self) -> kfa_status {
        let l = library();
        let mut layer = null_mut();
        // SAFETY: the caller's; the layer lives until it is destroyed.
        unsafe {
            let status = (l.kfa_flash_attention_layer_create)(
                KFA_DEVICE_CPU,
                0,
                self.kv_mul,
                self.kv_dim,
                self.seq_len,
                self.heads,
                self.head_size,
                self.scale,
                &mut layer,
            );
            if status != KFA_OK {
                assert!(layer.is_null());
                return status;
            }
            assert_eq!((l.kfa_flash_attention_layer_input_size)(layer), 3);
            assert_eq!((l.kfa_flash_attention_layer_output_size)(layer), 1);
            let steps = [
                (l.kfa_flash_attention_layer_set_pos)(layer, self.pos),
                (l.kfa_flash_attention_layer_set_layer_idx)(layer, self.layer),
                (l.kfa_flash_attention_layer_set_input)(layer, 0, &self.query),
                (l.kfa_flash_attention_layer_set_input)(layer, 1, &self.key),
                (l.kfa_flash_attention_layer_set_input)(layer, 2, &self.value),
                (l.kfa_flash_attention_layer_set_output)(layer, 0, &self.output),
                (l.kfa_flash_attention_layer_set_stream)(layer, null_mut()),
            ];
            let failed = steps.into_iter().find(|status| *status != KFA_OK);
            let status = failed.unwrap_or_else(|| (l.kfa_flash_attention_layer_forward)(layer));
            (l.kfa_flash_attention_layer_destroy)(layer);
            status
        }
    }
}

/// Bytes as the aligned memory that the oracle reads.
pub fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    };
    bytes.chunks(8).map(word).collect()
}

pub fn bytes(words: &[u64]) -> &[u8] {
    // SAFETY: any bytes are bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 8 * words.len()) }
}
