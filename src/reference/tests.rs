//! The oracle on cases small enough to work out by hand, and against independent references.

mod golden;
mod storage;

use super::*;

/// Keys `0, 1, 2, …` of one element, query 1 and values equal to the keys, so that a row's scores
/// are the indices of its keys and its output is their weighted mean.
struct Line {
    ones: Vec<f32>,
    keys: Vec<f32>,
}

impl Line {
    fn new(kv_len: usize) -> Self {
        Self { ones: vec![1.0; kv_len], keys: (0..kv_len).map(|k| k as f32).collect() }
    }

    fn attention(&self, q_len: usize) -> Attention<'_> {
        let tensor =
            |data| Tensor { data: Elements::F32(data), row_stride: 1, ..Tensor::default() };
        let keys = Cache { tensor: tensor(&self.keys), ..Cache::default() };
        Attention {
            batch: 1,
            q_len,
            kv_len: self.keys.len(),
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            value_head_dim: 1,
            query: tensor(&self.ones),
            key: keys,
            value: keys,
            ..Attention::default()
        }
    }
}

/// The keys that each row of sequence 0 sees.
fn ranges(attention: &Attention) -> Vec<(usize, usize)> {
    let sequence = attention.sequence(0);
    let range = |row| attention.visible(&sequence, row);
    (0..sequence.q_len).map(range).map(|range| (range.start, range.end)).collect()
}

fn assert_row(row: &Row, output: f64, lse: f64) {
    let close = |a: f64, b: f64| a == b || (a - b).abs() < 1e-12 || a.is_nan() && b.is_nan();
    assert!(close(row.output[0], output) && close(row.lse, lse), "{row:?}, want {output}, {lse}");
}

const NOTHING: (usize, usize) = (0, 0);

#[test]
fn causal_is_aligned_where_it_says() {
    let line = Line::new(5);
    let attention = line.attention(3);
    let see = |causal| ranges(&Attention { causal, ..attention });
    assert_eq!(see(Causal::BottomRight), [(0, 3), (0, 4), (0, 5)]);
    assert_eq!(see(Causal::TopLeft), [(0, 1), (0, 2), (0, 3)]);
    assert_eq!(see(Causal::None), [(0, 5); 3]);
    let short = Line::new(1);
    assert_eq!(ranges(&short.attention(3)), [NOTHING, NOTHING, (0, 1)]);
}

#[test]
fn a_window_counts_the_rows_own_key() {
    let line = Line::new(6);
    let attention = Attention { window: 2, ..line.attention(3) };
    assert_eq!(ranges(&attention), [(2, 4), (3, 5), (4, 6)]);
    let both = Attention { causal: Causal::None, window_right: Some(1), ..attention };
    assert_eq!(ranges(&both), [(2, 5), (3, 6), (4, 6)]);
    let right = Attention { window: 0, ..both };
    assert_eq!(ranges(&right), [(0, 5), (0, 6), (0, 6)]);
}

#[test]
fn a_chunk_holds_keys_of_the_rows_own_chunk() {
    let line = Line::new(7);
    let attention = Attention { chunk: 3, ..line.attention(7) };
    let triangle = [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5), (3, 6), (6, 7)];
    assert_eq!(ranges(&attention), triangle);
    let whole = Attention { causal: Causal::None, ..attention };
    assert_eq!(ranges(&whole)[..4], [(0, 3), (0, 3), (0, 3), (3, 6)]);
}

#[test]
fn a_span_is_seen_whole_by_its_rows_within_their_window() {
    let line = Line::new(6);
    let attention = Attention { span_ends: Some(&[0, 0, 5, 5, 5, 0]), ..line.attention(6) };
    assert_eq!(ranges(&attention), [(0, 1), (0, 2), (0, 5), (0, 5), (0, 5), (0, 6)]);
    let window = Attention { window: 2, ..attention };
    assert_eq!(ranges(&window), [(0, 1), (0, 2), (1, 5), (2, 5), (3, 5), (4, 6)]);
    // Only if its end is beyond the row, and never keys that the sequence does not have.
    let ends = [0, 0, 2, 50, 0, 0];
    assert_eq!(ranges(&Attention { span_ends: Some(&ends), ..attention })[2..4], [(0, 3), (0, 6)]);
    let second = Attention { batch: 2, span_ends: Some(&[0, 0, 6, 0]), ..line.attention(2) };
    assert_eq!(second.visible(&second.sequence(0), 0), 0..5);
    assert_eq!(second.visible(&second.sequence(1), 0), 0..6);
}

#[test]
fn lengths_place_a_sequence() {
    let line = Line::new(8);
    let padded = Attention {
        batch: 2,
        q_lens: Some(&[1, 2]),
        kv_lens: Some(&[0, 6]),
        kv_starts: Some(&[0, 4]),
        ..line.attention(3)
    };
    assert_eq!(padded.sequence(0).q_len, 1);
    assert_eq!(ranges(&padded), [NOTHING]);
    let sequence = padded.sequence(1);
    assert_eq!(padded.visible(&sequence, 0), 4..5);
    assert_eq!(padded.visible(&sequence, 1), 4..6);

    let packed = Attention {
        batch: 2,
        query_offsets: Some(&[0, 1, 3]),
        kv_offsets: Some(&[0, 3, 8]),
        ..line.attention(2)
    };
    let sequence = packed.sequence(1);
    assert_eq!((sequence.q_len, sequence.kv_len), (2, 5));
    assert_eq!((sequence.query_batch, sequence.first_query), (0, 1));
    assert_eq!((sequence.cache_batch, sequence.first_key), (0, 3));
    // Its row 0 sees four of its keys, which lie at 3, 4, 5 and 6.
    let e = std::f64::consts::E;
    let weights = [1.0, e, e * e, e * e * e];
    let sum: f64 = weights.iter().sum();
    let mean = weights.iter().zip(3..).map(|(w, k)| w * f64::from(k)).sum::<f64>() / sum;
    assert_row(&packed.row(1, 0, 0), mean, 3.0 + sum.ln());

    let indexed = Attention { batch: 2, cache_index: Some(&[5, 2]), ..line.attention(1) };
    assert_eq!([0, 1].map(|batch| indexed.sequence(batch).cache_batch), [5, 2]);
}

#[test]
fn softmax_of_two_keys() {
    let line = Line::new(2);
    let attention = line.attention(1);
    let e = std::f64::consts::E;
    assert_row(&attention.row(0, 0, 0), e / (1.0 + e), (1.0 + e).ln());
    let scaled = Attention { scale: 2.0, ..attention };
    assert_row(&scaled.row(0, 0, 0), e * e / (1.0 + e * e), (1.0 + e * e).ln());
    let base2 = Attention { lse_base2: true, ..attention };
    assert_row(&base2.row(0, 0, 0), e / (1.0 + e), (1.0 + e).log2());
}

#[test]
fn softcap_bends_the_scaled_score() {
    let line = Line::new(2);
    let attention = Attention { scale: 3.0, softcap: 2.0, ..line.attention(1) };
    let score = 2.0 * 1.5f64.tanh();
    assert_row(
        &attention.row(0, 0, 0),
        score.exp() / (1.0 + score.exp()),
        (1.0 + score.exp()).ln(),
    );
}

#[test]
fn alibi_grows_with_the_distance_on_both_sides() {
    let line = Line::new(3);
    let slopes = [0.0, 0.5];
    let attention = Attention {
        causal: Causal::None,
        alibi_slopes: Some((&slopes[1..], 0)),
        ..line.attention(2)
    };
    // Row 0 sits at 1: scores 0 - 1/2, 1 and 2 - 1/2.
    let weights = [-0.5, 1.0, 1.5].map(f64::exp);
    let sum: f64 = weights.iter().sum();
    assert_row(&attention.row(0, 0, 0), (weights[1] + 2.0 * weights[2]) / sum, sum.ln());
    // After the softcap, which bounds the score alone.
    let capped = Attention { softcap: 1e-9, ..attention };
    let weights = [-0.5, 0.0, -0.5].map(f64::exp);
    let sum: f64 = weights.iter().sum();
    let row = capped.row(0, 0, 0);
    assert!((row.lse - sum.ln()).abs() < 1e-8, "{row:?}");
    // Slopes of each sequence.
    let second = Attention { batch: 2, alibi_slopes: Some((&slopes, 1)), ..attention };
    assert_eq!(second.row(1, 0, 0).lse, attention.row(0, 0, 0).lse);
}

#[test]
fn masks_add_and_hide() {
    let line = Line::new(3);
    let mask = |kind| Mask {
        kind,
        batch_stride: 0,
        head_stride: 0,
        row_stride: 0,
        columns: 3,
        newest: false,
        offsets: None,
        head_factor: None,
    };
    let e = std::f64::consts::E;
    let hide_one = [0u8, 1, 1];
    let numbers = [f32::NEG_INFINITY, -1.0, 0.0];
    let attention = line.attention(1);
    let with = |mask| Attention { mask: Some(mask), ..attention }.row(0, 0, 0);
    let two_keys = ((e + 2.0 * e * e) / (e + e * e), (e + e * e).ln());
    let boolean = mask(MaskKind::Boolean(&hide_one));
    assert_row(&with(boolean), two_keys.0, two_keys.1);
    let bits = mask(MaskKind::Bits(&[0b110]));
    assert_row(&with(bits), two_keys.0, two_keys.1);
    // Scores 1 - 1 and 2.
    let additive = mask(MaskKind::Additive(Elements::F32(&numbers)));
    assert_row(&with(additive), (1.0 + 2.0 * e * e) / (1.0 + e * e), (1.0 + e * e).ln());
    // Scores 1 + 1 and 2; what is hidden stays hidden whatever the factor's sign.
    let factor = Mask { head_factor: Some(&[-1.0]), ..additive };
    assert_row(&with(factor), 1.5, 2.0 + 2f64.ln());
    // Two columns over the newest keys: key 0 is not spoken of.
    let newest = Mask { columns: 2, newest: true, ..boolean };
    assert_row(&with(newest), 2.0 * e * e / (1.0 + e * e), (1.0 + e * e).ln());
    // A mask of its own for each sequence, two bits on.
    let second = Mask { offsets: Some(&[0, 2]), ..mask(MaskKind::Bits(&[0b11011])) };
    let row = Attention { batch: 2, mask: Some(second), ..attention }.row(1, 0, 0);
    assert_row(&row, two_keys.0, two_keys.1);
}

#[test]
fn a_sink_takes_weight_and_gives_no_value() {
    let line = Line::new(2);
    let e = std::f64::consts::E;
    let attention = Attention { sinks: Some(&[1.0]), softcap: 1e9, ..line.attention(1) };
    let row = attention.row(0, 0, 0);
    assert!((row.output[0] - e / (1.0 + 2.0 * e)).abs() < 1e-9, "{row:?}");
    assert!((row.lse - (1.0 + 2.0 * e).ln()).abs() < 1e-9, "{row:?}");
}

#[test]
fn rows_that_see_nothing() {
    let line = Line::new(2);
    let nothing = Attention { kv_lens: Some(&[0]), ..line.attention(1) };
    assert_row(&nothing.row(0, 0, 0), 0.0, f64::NEG_INFINITY);
    let sink = Attention { sinks: Some(&[0.25]), ..nothing };
    assert_row(&sink.row(0, 0, 0), 0.0, 0.25);
    // Scores of -infinity hide nothing, but weigh nothing either.
    let minus = Line { ones: vec![1.0], keys: vec![f32::NEG_INFINITY; 2] };
    let attention = minus.attention(1);
    assert_row(&attention.row(0, 0, 0), 0.0, f64::NEG_INFINITY);
}

#[test]
fn nan_poisons_rows_that_see_it_and_no_other() {
    let mut line = Line::new(3);
    line.keys[2] = f32::NAN;
    let attention = line.attention(2);
    let e = std::f64::consts::E;
    assert_row(&attention.row(0, 0, 0), e / (1.0 + e), (1.0 + e).ln());
    assert_row(&attention.row(0, 1, 0), f64::NAN, f64::NAN);
    let mask = Mask {
        kind: MaskKind::Boolean(&[1, 1, 0]),
        batch_stride: 0,
        head_stride: 0,
        row_stride: 0,
        columns: 3,
        newest: false,
        offsets: None,
        head_factor: None,
    };
    let hidden = Attention { mask: Some(mask), ..attention };
    assert_row(&hidden.row(0, 1, 0), e / (1.0 + e), (1.0 + e).ln());
    line.ones[0] = f32::NAN;
    assert_row(&line.attention(2).row(0, 0, 0), f64::NAN, f64::NAN);
}

#[test]
fn query_heads_share_key_heads() {
    // Two tokens of two key/value heads, four query heads.
    let query = [1.0; 4];
    let keys = [0.0, 10.0, 0.0, 20.0];
    let tensor = |data, row_stride| Tensor {
        data: Elements::F32(data),
        batch_stride: 0,
        row_stride,
        head_stride: 1,
    };
    let keys = Cache { tensor: tensor(&keys, 2), ..Cache::default() };
    let attention = Attention {
        batch: 1,
        q_len: 1,
        kv_len: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 1,
        value_head_dim: 1,
        query: tensor(&query, 4),
        key: keys,
        value: keys,
        ..Attention::default()
    };
    let lse = [0, 1, 2, 3].map(|head| attention.row(0, 0, head).lse);
    assert_eq!(lse[..2], [2f64.ln(); 2]);
    assert_eq!(lse[2], lse[3]);
    assert!((lse[2] - 20.0).abs() < 1e-4);
}

#[test]
fn merged_parts_are_the_whole() {
    let line = Line::new(5);
    let whole = line.attention(1).row(0, 0, 0);
    let part = |start: i32, len: i32| {
        let (starts, lens) = ([start], [len]);
        Attention { kv_starts: Some(&starts), kv_lens: Some(&lens), ..line.attention(1) }
            .row(0, 0, 0)
    };
    let garbage = Row { output: vec![f64::NAN], lse: f64::NEG_INFINITY };
    let merged = merge(&[part(0, 2), garbage.clone(), part(2, 5)]);
    assert_row(&merged, whole.output[0], whole.lse);
    assert_row(&merge(&[garbage.clone(), garbage]), 0.0, f64::NEG_INFINITY);
    for lse in [f64::NAN, f64::INFINITY] {
        let bad = Row { output: vec![1.0], lse };
        assert_row(&merge(&[part(0, 2), bad]), f64::NAN, f64::NAN);
    }
}
