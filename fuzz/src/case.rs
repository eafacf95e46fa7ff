//! One problem in a few words: what a corpus file keeps, and what random choices make.

use crate::storage::Type;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ragged {
    #[default]
    No,
    /// A length per sequence.
    Lengths,
    /// Sequences one after the other.
    Packed,
    /// Both.
    PackedLengths,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strides {
    /// Left 0 in the description.
    #[default]
    Default,
    /// Token-major with gaps.
    Tokens,
    /// Head-major with gaps.
    Heads,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MaskKind {
    #[default]
    None,
    Boolean,
    Bits,
    Additive,
}

/// Which of a mask's keys it hides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hides {
    #[default]
    Some,
    Nothing,
    Most,
    /// All after the row's own, and nothing else.
    Future,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mask {
    pub kind: MaskKind,
    pub dtype: Type,
    pub hides: Hides,
    /// Axes along which it is shared.
    pub share_batch: bool,
    pub share_heads: bool,
    pub share_rows: bool,
    /// Columns fewer than `kv_len` has; 0 leaves the field 0.
    pub columns: usize,
    pub newest: bool,
    pub offsets: bool,
    pub head_factor: bool,
}

/// How scales are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scales {
    #[default]
    Tensor,
    Head,
    TokenAndHead,
    Channel,
    Groups,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Case {
    /// Of all that is not said below: lengths, numbers, gaps, places.
    pub seed: u64,
    pub batch: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub kv_heads: usize,
    pub group: usize,
    pub head_dim: usize,
    pub value_head_dim: usize,
    pub query: Type,
    pub key: Type,
    pub value: Type,
    pub output: Type,
    /// `KFA_ATTENTION_MODE_*`.
    pub mode: i32,
    pub deterministic: bool,
    pub batch_invariant: bool,
    pub split_keys: i32,
    pub default_scale: bool,
    pub softcap: f32,
    pub causal: i32,
    pub window: i32,
    pub window_right: i32,
    pub chunk: i32,
    pub spans: bool,
    pub queries: Ragged,
    pub keys: Ragged,
    pub starts: bool,
    pub cache_index: bool,
    pub alibi: bool,
    pub alibi_per_sequence: bool,
    pub mask: Mask,
    pub sinks: bool,
    pub lse: bool,
    pub lse_strides: bool,
    pub lse_base2: bool,
    pub query_strides: Strides,
    pub kv_strides: Strides,
    pub output_strides: Strides,
    /// All sequences read the same keys.
    pub shared_keys: bool,
    pub page_size: usize,
    pub csr: bool,
    pub value_table: bool,
    pub scales: Scales,
    pub zeros: bool,
    pub scale_dtype: Type,
    /// The value is a view of the key's memory.
    pub mla: bool,
    /// The output is the query.
    pub in_place: bool,
    /// One number of one visible key, and of one value, is NaN.
    pub nan: bool,
    pub threads: i32,
    pub host_threads: bool,
    /// Memory lies against the guard page before it, not behind it.
    pub flush_start: bool,
    /// All keys of a sequence can be read, hidden ones too.
    pub mapped: bool,
    /// The least workspace, not the preferred one.
    pub least_workspace: bool,
}

/// Makes choices: given a name and how many levels it has, says which.
pub type Choose<'a> = &'a mut dyn FnMut(&'static str, usize) -> usize;

/// Choices that no feature hangs on.
pub const SIZES: [&str; 14] = [
    "batch",
    "q_len",
    "kv_len",
    "kv_heads",
    "group",
    "head_dim",
    "query type",
    "deterministic",
    "scale",
    "lse",
    "query strides",
    "kv strides",
    "output strides",
    "flush",
];

/// Multiplications that the oracle should not need more of.
const MOST_WORK: usize = 3_000_000;

impl Case {
    pub fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// A case that the contract allows, whatever is chosen.
    pub fn choose(seed: u64, choose: Choose) -> Self {
        let mut c = Case { seed, ..Case::default() };
        c.batch = [1, 2, 4][choose("batch", 3)];
        c.q_len = [1, 2, 9, 40, 130][choose("q_len", 5)];
        c.kv_len = [1, 7, 64, 130, 600, 2100][choose("kv_len", 6)];
        c.kv_heads = [1, 2, 3][choose("kv_heads", 3)];
        c.group = [1, 2, 3, 7, 8, 16, 128][choose("group", 7)];
        c.mla = choose("mla", 6) == 1;
        let dims = [64, 128, 1, 8, 40, 72, 80, 96, 112, 192, 256, 512, 576, 33];
        c.head_dim = if c.mla { 576 } else { dims[choose("head_dim", dims.len())] };
        c.value_head_dim = match choose("value_head_dim", 3) {
            _ if c.mla => 512,
            1 => [128, 512, 64][choose("other value_head_dim", 3)],
            _ => c.head_dim,
        };
        c.query = Type::FLOATS[choose("query type", 3)];
        c.output = c.query;
        c.key = match choose("key type", 4) {
            0 => c.query,
            level => Type::FLOATS[level - 1],
        };
        c.value = match choose("value type", 4) {
            0 => c.key,
            level => Type::FLOATS[level - 1],
        };
        if choose("quantised", 4) == 1 {
            let types = Type::QUANTISED.len();
            c.key = Type::QUANTISED[choose("quantised keys", types)];
            c.value = match choose("quantised values", 1 + types) {
                0 => c.key,
                level => Type::QUANTISED[level - 1],
            };
        }
        if c.mla {
            c.value = c.key;
        }
        // Whole blocks.
        let packing = c.key.packing().max(c.value.packing());
        c.head_dim = c.head_dim.next_multiple_of(packing);
        c.value_head_dim = c.value_head_dim.next_multiple_of(packing);
        c.scales =
            [Scales::Tensor, Scales::Head, Scales::TokenAndHead, Scales::Channel, Scales::Groups]
                [choose("scales", 5)];
        c.zeros = choose("zeros", 2) == 1;
        c.scale_dtype = Type::FLOATS[choose("scale type", 3)];

        c.mode = choose("mode", 3) as i32;
        c.deterministic = choose("deterministic", 2) == 1;
        c.batch_invariant = choose("batch_invariant", 6) == 1;
        if c.batch_invariant {
            c.split_keys = [0, 64, 256][choose("split_keys", 3)];
        }
        c.default_scale = !c.mla && choose("scale", 3) == 0;
        c.softcap = [0.0, 2.0, 50.0][choose("softcap", 3)];
        c.causal = [1, 0, 2][choose("causal", 3)];
        c.window = [0, 1, 5, 70, 1000][choose("window", 5)];
        c.chunk = [0, 3, 64, 200][choose("chunk", 4)];
        if c.causal == 0 {
            c.window_right = [0, 1, 40][choose("window_right", 3)];
        } else {
            c.spans = choose("spans", 3) == 1;
        }
        let ragged = [Ragged::No, Ragged::Lengths, Ragged::Packed, Ragged::PackedLengths];
        c.queries = ragged[choose("queries", 4)];
        c.keys = ragged[choose("keys", 4)];
        c.starts = choose("starts", 3) == 1;
        c.page_size = [0, 1, 3, 16, 64, 256][choose("page_size", 6)];
        if c.page_size > 0 {
            c.csr = choose("csr", 2) == 1;
            c.value_table = !c.mla && choose("value_table", 2) == 1;
            c.keys = match c.keys {
                Ragged::Packed => Ragged::No,
                Ragged::PackedLengths => Ragged::Lengths,
                keys => keys,
            };
        } else if matches!(c.keys, Ragged::No | Ragged::Lengths) {
            c.cache_index = choose("cache_index", 3) == 1;
            c.shared_keys = !c.cache_index && choose("shared_keys", 6) == 1;
        }
        c.alibi = choose("alibi", 2) == 1;
        c.alibi_per_sequence = c.alibi && choose("alibi_per_sequence", 2) == 1;
        c.mask.kind = [MaskKind::None, MaskKind::Boolean, MaskKind::Bits, MaskKind::Additive]
            [choose("mask", 4)];
        if c.mask.kind != MaskKind::None {
            let m = &mut c.mask;
            m.dtype = Type::FLOATS[choose("mask type", 3)];
            m.hides = [Hides::Some, Hides::Nothing, Hides::Most, Hides::Future][choose("hides", 4)];
            m.share_batch = choose("share_batch", 2) == 1;
            m.share_heads = choose("share_heads", 2) == 1;
            m.share_rows = choose("share_rows", 3) == 1;
            m.columns = [0, 1, 5, 64][choose("columns", 4)];
            m.newest = choose("newest", 2) == 1;
            m.offsets = choose("mask_offsets", 3) == 1;
            m.head_factor = m.kind == MaskKind::Additive && choose("head_factor", 2) == 1;
        }
        c.sinks = choose("sinks", 2) == 1;
        c.lse = choose("lse", 3) != 0;
        c.lse_strides = choose("lse_strides", 2) == 1;
        c.lse_base2 = choose("lse_base2", 3) == 1;
        let strides = [Strides::Default, Strides::Tokens, Strides::Heads];
        c.query_strides = strides[choose("query strides", 3)];
        c.kv_strides = strides[choose("kv strides", 3)];
        c.output_strides = strides[choose("output strides", 3)];
        if c.shared_keys {
            c.kv_strides = Strides::Tokens;
        }
        if c.value_head_dim == c.head_dim {
            c.in_place = choose("in_place", 4) == 1;
        }
        c.nan = choose("nan", 6) == 1;
        if choose("threads", 4) == 1 {
            c.threads = [1, 2, 5][choose("how many threads", 3)];
        }
        c.host_threads = c.threads > 0 && choose("host_threads", 3) == 1;
        c.flush_start = choose("flush", 2) == 1;
        c.least_workspace = choose("workspace", 2) == 1;
        c.bound_work();
        c
    }

    /// Makes a problem smaller until the oracle is quick.
    fn bound_work(&mut self) {
        let work =
            |c: &Case| c.batch * c.heads() * c.q_len * c.kv_len * (c.head_dim + c.value_head_dim);
        while work(self) > MOST_WORK {
            if self.kv_heads > 2 {
                self.kv_heads = 2;
            } else if self.q_len > 20 {
                self.q_len /= 2;
            } else if self.batch > 2 {
                self.batch = 2;
            } else if self.kv_len > 300 && self.q_len == 1 {
                self.kv_heads = 1;
                self.kv_len /= 2;
            } else if self.q_len > 1 {
                self.q_len /= 2;
            } else {
                self.kv_len = self.kv_len.div_ceil(2);
            }
        }
        if self.mask.columns > self.kv_len {
            self.mask.columns = self.kv_len;
        }
    }
}
