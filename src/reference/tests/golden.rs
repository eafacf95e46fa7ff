//! Against what the onnx package, PyTorch and gguf compute: `tools/golden.py` wrote the file.

use crate::reference::{Attention, Cache, Causal, Elements, Mask, MaskKind, Tensor};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

/// Number `n` of a stream: a multiple of 1/128 from -2 to 2. The script has the same.
fn number(seed: u64, n: u64) -> f32 {
    let mut x = (seed * 1_000_003 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    ((x >> 40) % 513) as f32 / 128.0 - 2.0
}

fn size(case: &Value, field: &str) -> usize {
    case[field].as_u64().unwrap_or(0) as usize
}

/// A number, or the name of one that JSON cannot write.
fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn floats(value: &Value) -> Option<Vec<f64>> {
    value.as_array().map(|array| array.iter().map(float).collect())
}

fn close(got: f64, want: f64) -> bool {
    got == want || got.is_nan() && want.is_nan() || (got - want).abs() < 1e-10 * want.abs().max(1.0)
}

#[test]
fn attention_of_other_libraries() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    for case in cases {
        check(case);
    }
}

fn check(case: &Value) {
    let of = |field| size(case, field);
    let (batch, heads, kv_heads) = (of("batch"), of("heads"), of("kv_heads"));
    let (q_len, kv_len) = (of("q_len"), of("kv_len"));
    let (head_dim, value_head_dim) = (of("head_dim"), of("value_head_dim"));
    let stream = |seed, rows: usize, heads: usize, dim: usize| -> Vec<f32> {
        (0..(batch * rows * heads * dim) as u64).map(|n| number(seed, n)).collect()
    };
    let packed = |data, rows: usize, heads: usize, dim: usize| Tensor {
        data: Elements::F32(data),
        batch_stride: rows * heads * dim,
        row_stride: heads * dim,
        head_stride: dim,
    };
    let cache = |tensor| Cache { tensor, ..Cache::default() };
    let query = stream(1, q_len, heads, head_dim);
    let key = stream(2, kv_len, kv_heads, head_dim);
    let value = stream(3, kv_len, kv_heads, value_head_dim);

    let single = |field: &str| -> Option<Vec<f32>> {
        floats(&case[field]).map(|numbers| numbers.into_iter().map(|x| x as f32).collect())
    };
    let integers = |field: &str| -> Option<Vec<i32>> {
        floats(&case[field]).map(|numbers| numbers.into_iter().map(|x| x as i32).collect())
    };
    let (slopes, sinks) = (single("alibi_slopes"), single("sinks"));
    let (kv_lens, kv_starts) = (integers("kv_lens"), integers("kv_starts"));
    let span_ends = integers("span_ends");
    let mask = &case["mask"];
    let (numbers, bytes): (Vec<f32>, Vec<u8>) = floats(&mask["data"])
        .unwrap_or_default()
        .iter()
        .map(|x| (*x as f32, u8::from(*x != 0.0)))
        .unzip();
    let kind = match mask["kind"].as_str() {
        Some("boolean") => Some(MaskKind::Boolean(&bytes)),
        Some("additive") => Some(MaskKind::Additive(Elements::F32(&numbers))),
        _ => None,
    };

    let attention = Attention {
        batch,
        q_len,
        kv_len,
        heads,
        kv_heads,
        head_dim,
        value_head_dim,
        scale: case["scale"].as_f64().unwrap_or(0.0),
        softcap: case["softcap"].as_f64().unwrap_or(0.0),
        causal: match case["causal"].as_str() {
            None => Causal::BottomRight,
            Some("none") => Causal::None,
            Some("top-left") => Causal::TopLeft,
            Some(other) => panic!("causal {other}"),
        },
        window: of("window"),
        window_right: case["window_right"].as_u64().map(|keys| keys as usize),
        chunk: of("chunk"),
        span_ends: span_ends.as_deref(),
        kv_lens: kv_lens.as_deref(),
        kv_starts: kv_starts.as_deref(),
        alibi_slopes: slopes.as_deref().map(|slopes| (slopes, 0)),
        mask: kind.map(|kind| Mask {
            kind,
            batch_stride: heads * q_len * kv_len,
            head_stride: q_len * kv_len,
            row_stride: kv_len,
            columns: kv_len,
            newest: false,
            offsets: None,
            head_factor: None,
        }),
        sinks: sinks.as_deref(),
        query: packed(&query, q_len, heads, head_dim),
        key: cache(packed(&key, kv_len, kv_heads, head_dim)),
        value: cache(packed(&value, kv_len, kv_heads, value_head_dim)),
        ..Attention::default()
    };
    let (output, lse) = attention.all();
    let compare = |what: &str, got: &[f64], want: &[f64]| {
        assert_eq!(got.len(), want.len(), "{}: {what}", case["name"]);
        for (n, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(close(*got, *want), "{}: {what}[{n}] is {got}, want {want}", case["name"]);
        }
    };
    compare("output", &output, &floats(&case["output"]).unwrap());
    if let Some(want) = floats(&case["lse"]) {
        compare("lse", &lse, &want);
    }
}

#[test]
fn stored_numbers_of_other_libraries() {
    for case in golden()["storage"].as_array().unwrap() {
        let bytes: Vec<u8> = floats(&case["bytes"]).unwrap().iter().map(|x| *x as u8).collect();
        let elements = match case["type"].as_str().unwrap() {
            "e4m3" => Elements::E4m3(&bytes),
            "e5m2" => Elements::E5m2(&bytes),
            "q8_0" => Elements::Q8_0(&bytes),
            "q4_0" => Elements::Q4_0(&bytes),
            "q4_1" => Elements::Q4_1(&bytes),
            "q5_0" => Elements::Q5_0(&bytes),
            "q5_1" => Elements::Q5_1(&bytes),
            "iq4_nl" => Elements::Iq4Nl(&bytes),
            other => panic!("type {other}"),
        };
        for (i, want) in floats(&case["values"]).unwrap().into_iter().enumerate() {
            let got = elements.at(0, i);
            // Theirs is rounded to float32.
            let equal = got as f32 == want as f32 || got.is_nan() && want.is_nan();
            assert!(equal, "{}[{i}] is {got}, want {want}", case["type"]);
        }
    }
}
