//! What a problem asks for beyond plain attention, and what a kernel serves: sets of named features.

use std::fmt;

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Features(u64);

/// Names each feature once: its constant, and what messages call it.
macro_rules! features {
    ($($constant:ident: $name:literal,)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Bit { $($constant),* }

        impl Features {
            $(pub const $constant: Features = Features(1 << Bit::$constant as u32);)*
            const NAMES: &[&str] = &[$($name),*];
        }
    };
}

features! {
    CAUSAL_TOP_LEFT: "is_causal 2 (top-left)",
    SLIDING_WINDOW: "sliding_window",
    WINDOW_RIGHT: "window_right",
    ATTENTION_CHUNK: "attention_chunk",
    SPANS: "span_ends",
    SOFTCAP: "softcap",
    ALIBI: "alibi_slopes",
    ADDITIVE_MASK: "an additive mask",
    BOOLEAN_MASK: "a boolean mask",
    BIT_MASK: "a bit mask",
    MASK_COLUMNS: "mask_columns or mask_newest",
    MASK_OFFSETS: "mask_offsets",
    MASK_HEAD_FACTOR: "mask_head_factor",
    SINKS: "sinks",
    VALUE_HEAD_DIM: "value_head_dim other than head_dim",
    QUERY_OFFSETS: "query_offsets (packed queries)",
    KV_OFFSETS: "kv_offsets (packed keys)",
    Q_LENS: "q_lens (row count per sequence)",
    KV_LENS: "kv_lens (key count per sequence)",
    KV_STARTS: "kv_starts (first key per sequence)",
    CACHE_INDEX: "cache_index",
    PAGES: "page_size (paged cache)",
    PAGE_OFFSETS: "page_offsets",
    VALUE_PAGES: "value_page_table",
    QUANTISED_KEYS: "quantised keys (key.dtype)",
    QUANTISED_VALUES: "quantised values (value.dtype)",
    LSE_STRIDES: "lse strides",
    LSE_BASE2: "KFA_FLAG_LSE_BASE2",
    BATCH_INVARIANT: "KFA_FLAG_BATCH_INVARIANT",
    FAST_MATH: "KFA_FLAG_FAST_MATH",
    NORM: "norm",
    ROPE: "rope",
    APPEND: "append",
    POS_DEVICE: "pos_device",
    THREADS: "threads",
    HOST_THREADS: "parallel (the host's threads)",
}

impl Features {
    pub const NONE: Features = Features(0);

    pub const fn and(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// `self` where the condition holds, else nothing.
    pub const fn when(self, condition: bool) -> Features {
        if condition { self } else { Features::NONE }
    }

    /// What of this set another one lacks.
    pub const fn without(self, served: Features) -> Features {
        Features(self.0 & !served.0)
    }

    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    pub const fn has(self, feature: Features) -> bool {
        feature.without(self).is_empty()
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Features::NAMES.iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 != 0);
        for (n, (_, name)) in names.enumerate() {
            write!(f, "{}{name}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_names_exactly_its_features() {
        let asked = Features::SOFTCAP.and(Features::SINKS).and(Features::HOST_THREADS);
        let served = Features::SINKS.and(Features::ALIBI);
        assert_eq!(asked.without(served).to_string(), "softcap, parallel (the host's threads)");
        assert!(asked.without(asked).is_empty());
        assert_eq!(Features::NONE.to_string(), "");
    }
}
