//! What the validator must not fall for, and what a row sees of a ragged batch.

use super::*;
use crate::error::Status;

fn shape(q_len: i32, kv_len: i32) -> kfa_attention_desc {
    kfa_attention_desc { q_len, kv_len, heads: 2, kv_heads: 1, head_dim: 8, ..DEFAULT_DESC }
}

#[test]
fn a_stride_of_the_only_row_may_be_any_number() {
    let mut memory = [0.0f32; 64];
    let data = memory.as_mut_ptr();
    let view = |offset: usize, row_stride| kfa_tensor_view {
        data: data.wrapping_add(offset).cast(),
        batch_stride: 64,
        row_stride,
        head_stride: 8,
        ..NO_VIEW
    };
    for stride in [i64::MAX, i64::MAX / 2 + 1, 1 << 62] {
        let desc = kfa_attention_desc {
            query: view(0, stride),
            key: view(16, stride),
            value: view(24, stride),
            output: view(32, stride),
            softmax_scale: 1.0,
            ..shape(1, 1)
        };
        of(&desc, Check::All).unwrap();
        let overlapping = kfa_attention_desc { output: view(20, stride), ..desc };
        let error = of(&overlapping, Check::All).unwrap_err();
        assert!(error.message.contains("output overlaps key"), "{error}");
        let beyond = kfa_attention_desc { q_len: 2, kv_len: 2, ..desc };
        let error = of(&beyond, Check::All).unwrap_err();
        assert!(error.message.contains("overflows"), "{error}");
    }
}

#[test]
fn a_bare_status_tells_what_an_error_tells() {
    for (desc, status) in [
        (shape(0, 1), Status::InvalidArgument),
        (kfa_attention_desc { device: KFA_DEVICE_XPU, ..shape(1, 1) }, Status::NoDevice),
        (
            kfa_attention_desc {
                query: kfa_tensor_view { dtype: KFA_DTYPE_INT8, ..NO_VIEW },
                ..shape(1, 1)
            },
            Status::Unsupported,
        ),
    ] {
        assert_eq!(of(&desc, Check::Shape).unwrap_err().status, status);
        // SAFETY: the description points to nothing.
        let bare = unsafe { Problem::new::<Status>(&desc, Check::Shape) };
        assert_eq!(bare.unwrap_err(), status);
    }
}

#[test]
fn sequences_of_a_ragged_batch_lie_where_their_arrays_say() {
    let (query_offsets, kv_lens, starts, index) = ([0, 3, 3, 4], [5, 0, 9], [2, 0, 0], [4, 0, 1]);
    let mut memory = [0.0f32; 4096];
    let data = memory.as_mut_ptr();
    let view =
        |offset: usize| kfa_tensor_view { data: data.wrapping_add(offset).cast(), ..NO_VIEW };
    let desc = kfa_attention_desc {
        batch: 3,
        query_offsets: query_offsets.as_ptr(),
        kv_lens: kv_lens.as_ptr(),
        kv_starts: starts.as_ptr(),
        cache_index: index.as_ptr(),
        cache_batch: 5,
        query: view(0),
        output: view(128),
        key: view(1024),
        value: view(2048),
        ..shape(3, 9)
    };
    let p = of(&desc, Check::All).unwrap();
    assert_eq!(p.lengths.query_rows, 4);
    assert_eq!(p.lse_strides, [0, 1, 2]);
    // SAFETY: the arrays are as they were.
    let found = [0, 1, 2].map(|batch| unsafe { p.sequence(batch) });
    assert_eq!(
        found.map(|s| (s.query_batch, s.query_row, s.q_len, s.cache_batch, s.kv_first, s.kv_end)),
        [(0, 0, 3, 4, 2, 5), (0, 3, 0, 0, 0, 0), (0, 3, 1, 1, 0, 9)]
    );
    assert_eq!(found.map(|s| s.span_row), [0, 3, 3]);
    // SAFETY: as above.
    let rows = [0, 1, 2].map(|row| unsafe { p.visible.row(&found[0], row) });
    assert_eq!(rows, [2..3, 2..4, 2..5]);
    assert_eq!(
        p.features,
        Features::QUERY_OFFSETS
            .and(Features::KV_LENS)
            .and(Features::KV_STARTS)
            .and(Features::CACHE_INDEX)
    );
}
