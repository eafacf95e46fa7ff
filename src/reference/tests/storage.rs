//! Where numbers lie and how they are stored.

use crate::reference::{Attention, Cache, Elements, Pages, Quant, Tensor};
use half::f16;

fn numbers(data: Elements, count: usize) -> Vec<f64> {
    (0..count).map(|i| data.at(0, i)).collect()
}

/// A row of one number, read through a cache.
fn read(cache: &Cache, attention: &Attention, batch: usize, key: usize) -> f64 {
    let mut row = [0.0];
    cache.read(&attention.sequence(batch), key, 0, &mut row);
    row[0]
}

#[test]
fn small_floats() {
    let e4m3 = [0x00, 0x01, 0x08, 0x38, 0x7e, 0xb8, 0x7f];
    let found = numbers(Elements::E4m3(&e4m3), 7);
    assert_eq!(found[..6], [0.0, 2f64.powi(-9), 2f64.powi(-6), 1.0, 448.0, -1.0]);
    assert!(found[6].is_nan());
    let e5m2 = [0x00, 0x01, 0x3c, 0x7b, 0xbe, 0x7c, 0x7d];
    let found = numbers(Elements::E5m2(&e5m2), 7);
    assert_eq!(found[..6], [0.0, 2f64.powi(-16), 1.0, 57344.0, -1.5, f64::INFINITY]);
    assert!(found[6].is_nan());
}

#[test]
fn integers() {
    assert_eq!(numbers(Elements::I8(&[-128, 127]), 2), [-128.0, 127.0]);
    assert_eq!(numbers(Elements::U8(&[0, 255]), 2), [0.0, 255.0]);
    assert_eq!(numbers(Elements::I4(&[0x8f, 0x70]), 4), [-1.0, -8.0, 0.0, 7.0]);
    assert_eq!(numbers(Elements::U4(&[0x8f, 0x70]), 4), [15.0, 8.0, 0.0, 7.0]);
}

/// One block of each of ggml's types: scale 1/2, offset 3, low halves 1 and high halves 15.
#[test]
fn blocks_of_ggml() {
    let half = f16::from_f32(0.5).to_le_bytes();
    let three = f16::from_f32(3.0).to_le_bytes();
    let block = |header: &[&[u8]], quants: &[u8]| [header.concat(), quants.to_vec()].concat();
    let check = |data: Elements, low: f64, high: f64| {
        // The second block, so that an index counts blocks, and over it into the third.
        let found: Vec<f64> = (0..33).map(|i| data.at(1, i)).collect();
        assert_eq!(found[..16], [low; 16], "{data:?}");
        assert_eq!(found[16..32], [high; 16], "{data:?}");
        assert_eq!(found[32], low, "{data:?}");
    };
    let three_of = |block: Vec<u8>| [vec![0; block.len()], block.clone(), block].concat();
    let nibbles = [0xf1; 16];
    check(Elements::Q4_0(&three_of(block(&[&half], &nibbles))), -3.5, 3.5);
    check(Elements::Q4_1(&three_of(block(&[&half, &three], &nibbles))), 3.5, 10.5);
    check(Elements::Iq4Nl(&three_of(block(&[&half], &nibbles))), -52.0, 56.5);
    // The fifth bit is set in the high half alone.
    let fifth = [0, 0, 0xff, 0xff];
    check(Elements::Q5_0(&three_of(block(&[&half, &fifth], &nibbles))), -7.5, 7.5);
    check(Elements::Q5_1(&three_of(block(&[&half, &three, &fifth], &nibbles))), 3.5, 18.5);
    let bytes: Vec<u8> = [[0xffu8; 16], [127; 16]].concat();
    check(Elements::Q8_0(&three_of(block(&[&half], &bytes))), -0.5, 63.5);
}

#[test]
fn pages_by_table_and_by_offsets() {
    // Four pages of two keys; the key's number says where it lies.
    let data: Vec<f32> = (0..8).map(|n| n as f32).collect();
    let tensor =
        Tensor { data: Elements::F32(&data), batch_stride: 2, row_stride: 1, head_stride: 0 };
    let attention = Attention { batch: 2, q_len: 1, kv_len: 3, ..Attention::default() };
    let pages = Pages { page_size: 2, table: &[3, 1, 0, 2], stride: 2, offsets: None };
    let cache = Cache { tensor, pages: Some(pages), quant: None };
    let found =
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)].map(|(b, k)| read(&cache, &attention, b, k));
    assert_eq!(found, [6.0, 7.0, 2.0, 0.0, 4.0]);
    let csr = Pages { table: &[-1, 3, 1, 2], offsets: Some(&[1, 3, 4]), ..pages };
    let cache = Cache { pages: Some(csr), ..cache };
    let found = [(0, 0), (0, 3), (1, 1)].map(|(b, k)| read(&cache, &attention, b, k));
    assert_eq!(found, [6.0, 3.0, 5.0]);
}

#[test]
fn groups_of_tokens_and_channels_have_scales_of_their_own() {
    // Four tokens of four channels, all stored as 10; two groups along each axis.
    let stored = [10i8; 16];
    let scale = [1.0, 2.0, 3.0, 4.0];
    let zero = [f16::ZERO, f16::ONE, f16::ZERO, f16::ONE];
    let tensor =
        Tensor { data: Elements::I8(&stored), batch_stride: 0, row_stride: 4, head_stride: 0 };
    let quant = Quant {
        scale: Elements::F32(&scale),
        zero: Some(Elements::F16(&zero)),
        strides: [0, 2, 0, 1],
        tokens_per_group: 2,
        channels_per_group: 2,
    };
    let cache = Cache { tensor, pages: None, quant: Some(quant) };
    let attention = Attention { batch: 1, q_len: 1, kv_len: 4, ..Attention::default() };
    let mut row = [0.0; 4];
    cache.read(&attention.sequence(0), 1, 0, &mut row);
    assert_eq!(row, [10.0, 10.0, 18.0, 18.0]);
    cache.read(&attention.sequence(0), 2, 0, &mut row);
    assert_eq!(row, [30.0, 30.0, 36.0, 36.0]);
    let shared = Cache { quant: Some(Quant { zero: None, strides: [0; 4], ..quant }), ..cache };
    shared.read(&attention.sequence(0), 3, 0, &mut row);
    assert_eq!(row, [10.0; 4]);
}
