//! The whole product of features, pair by pair, and each trap of the contract by name.

use crate::case::{Case, Hides, Mask, MaskKind, Ragged, Strides};
use crate::library::library;
use crate::random::Random;
use crate::run::{self, Outcome};
use crate::storage::Type;
use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::reference::{Attention, Cache, Elements, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::null_mut;

type Level = (&'static str, usize);

/// Draws a case with some choices forced; which choices it made.
fn draw(random: &mut Random, forced: &[Level]) -> (Case, Vec<(Level, usize)>) {
    let seed = random.next();
    let mut made = vec![];
    let case = Case::choose(seed, &mut |name, levels| {
        let wanted = forced.iter().find(|(forced, _)| *forced == name);
        let level = wanted.map_or_else(|| random.below(levels), |(_, level)| *level);
        made.push(((name, level), levels));
        level
    });
    (case, made)
}

/// Cases in which every two levels of every two choices meet, where any case has both.
pub fn pairwise() -> Vec<Case> {
    let random = &mut Random(2026);
    let mut choices: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..500 {
        draw(random, &[]).1.iter().for_each(|((name, _), levels)| {
            choices.insert(name, *levels);
        });
    }
    let levels: Vec<Level> = choices
        .iter()
        .flat_map(|(name, levels)| (0..*levels).map(|level| (*name, level)))
        .collect();
    let mut met: BTreeSet<(Level, Level)> = BTreeSet::new();
    let mut cases = vec![];
    for a in &levels {
        for b in levels.iter().filter(|b| b.0 > a.0) {
            // Some pairs are no problem: pages and packed keys, say.
            for _ in 0..4 {
                if met.contains(&(*a, *b)) {
                    break;
                }
                let (case, made) = draw(random, &[*a, *b]);
                let mut made: Vec<Level> = made.into_iter().map(|(level, _)| level).collect();
                made.sort();
                if made.binary_search(a).is_err() || made.binary_search(b).is_err() {
                    continue;
                }
                for (i, first) in made.iter().enumerate() {
                    met.extend(made[i + 1..].iter().map(|second| (*first, *second)));
                }
                cases.push(case);
            }
        }
    }
    cases
}

/// A small plain problem that traps start from.
fn plain() -> Case {
    Case {
        seed: 7,
        batch: 1,
        q_len: 1,
        kv_len: 130,
        kv_heads: 2,
        group: 2,
        head_dim: 64,
        value_head_dim: 64,
        causal: 1,
        lse: true,
        default_scale: true,
        query_strides: Strides::Tokens,
        kv_strides: Strides::Tokens,
        ..Case::default()
    }
}

/// The traps that SEMANTICS lists, each with lengths for decode, chunk and prefill.
pub fn traps() -> Vec<(String, Case)> {
    let mask = |kind, hides| Mask { kind, hides, ..Mask::default() };
    let mut named = vec![
        ("a window of one key is the row's own", Case { window: 1, ..plain() }),
        ("a window's edge inside a tile", Case { window: 70, kv_len: 300, ..plain() }),
        (
            "a window and keys to the right",
            Case { causal: 0, window: 5, window_right: 3, ..plain() },
        ),
        ("causality from the top left", Case { causal: 2, ..plain() }),
        ("top left with a window", Case { causal: 2, window: 5, ..plain() }),
        ("chunks cut inside a tile", Case { chunk: 50, kv_len: 230, ..plain() }),
        ("spans inside a window", Case { spans: true, window: 20, ..plain() }),
        ("one sink over split keys", Case { sinks: true, kv_len: 2100, threads: 5, ..plain() }),
        ("sequences without keys", Case { keys: Ragged::Lengths, batch: 4, ..plain() }),
        (
            "sequences without keys, with a sink",
            Case { keys: Ragged::Lengths, batch: 4, sinks: true, ..plain() },
        ),
        ("left padding", Case { starts: true, keys: Ragged::Lengths, batch: 4, ..plain() }),
        (
            "packed sequences",
            Case { queries: Ragged::Packed, keys: Ragged::Packed, batch: 4, ..plain() },
        ),
        ("pages of -1", Case { page_size: 16, starts: true, window: 40, batch: 2, ..plain() }),
        ("pages of one key", Case { page_size: 1, csr: true, batch: 2, ..plain() }),
        ("own pages of values", Case { page_size: 16, value_table: true, batch: 2, ..plain() }),
        ("ALiBi's LSE is not shifted", Case { alibi: true, ..plain() }),
        ("ALiBi on both sides", Case { alibi: true, causal: 0, ..plain() }),
        ("softcap before ALiBi", Case { alibi: true, softcap: 2.0, ..plain() }),
        ("a mask that hides NaN", Case { mask: mask(MaskKind::Boolean, Hides::Most), ..plain() }),
        (
            "causality as a mask",
            Case { causal: 0, mask: mask(MaskKind::Additive, Hides::Future), ..plain() },
        ),
        (
            "a mask over the newest keys",
            Case {
                mask: Mask { columns: 7, newest: true, ..mask(MaskKind::Bits, Hides::Some) },
                ..plain()
            },
        ),
        ("NaN of any payload", Case { nan: true, ..plain() }),
        (
            "latent attention",
            Case {
                head_dim: 576,
                value_head_dim: 512,
                kv_heads: 1,
                group: 16,
                mla: true,
                default_scale: false,
                ..plain()
            },
        ),
        ("192 and 128", Case { head_dim: 192, value_head_dim: 128, ..plain() }),
        ("base 2", Case { lse_base2: true, sinks: true, ..plain() }),
    ];
    for dim in [40, 72, 80, 96, 112, 192, 512, 576] {
        named.push(("a head size", Case { head_dim: dim, value_head_dim: dim, ..plain() }));
    }
    for group in [1, 3, 7, 8, 16, 128] {
        named.push(("a group size", Case { group, kv_heads: 1, ..plain() }));
    }
    let mut all = vec![];
    for (name, case) in named {
        for q_len in [1, 9, 140] {
            // The last has more rows than keys.
            for key in [Type::F32, Type::Bf16] {
                for mode in [KFA_ATTENTION_MODE_FLASH, KFA_ATTENTION_MODE_STANDARD] {
                    let case = Case { q_len, key, value: key, mode, ..case.clone() };
                    all.push((name.to_string(), case));
                }
            }
        }
    }
    all
}

/// Keys more than 2^31 elements apart, most of which take no memory.
pub fn far_apart() -> Result<Outcome, String> {
    const KEYS: usize = 70;
    const ROW: usize = 1 << 25;
    let library = library();
    let elements = KEYS * ROW;
    let map = |elements: usize| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of our own, of zeros.
        let map = unsafe { libc::mmap(null_mut(), 4 * elements, protection, flags, -1, 0) };
        assert!(map != libc::MAP_FAILED, "mmap");
        // SAFETY: as above, and kept to the end of the process.
        unsafe { std::slice::from_raw_parts_mut(map.cast::<f32>(), elements) }
    };
    let random = &mut Random(3);
    let (key, value) = (map(elements), map(elements));
    for row in 0..KEYS {
        for d in 0..64 {
            key[row * ROW + d] = random.normal();
            value[row * ROW + d] = random.normal();
        }
    }
    let mut query: Vec<f32> = (0..9 * 64).map(|_| random.normal()).collect();
    let mut output = vec![f32::NAN; 9 * 64];
    for q_len in [1, 9] {
        for mode in [KFA_ATTENTION_MODE_FLASH, KFA_ATTENTION_MODE_STANDARD] {
            let mut d = library.default_desc();
            d.mode = mode;
            (d.q_len, d.kv_len) = (q_len as i32, KEYS as i32);
            (d.heads, d.kv_heads, d.head_dim) = (1, 1, 64);
            d.query.data = query.as_mut_ptr().cast();
            d.output.data = output.as_mut_ptr().cast();
            (d.key.data, d.value.data) = (key.as_mut_ptr().cast(), value.as_mut_ptr().cast());
            for view in [&mut d.key, &mut d.value] {
                (view.row_stride, view.head_stride) = (ROW as i64, 64);
            }
            let mut workspace = vec![0f32; 1 << 16];
            d.workspace = workspace.as_mut_ptr().cast();
            d.workspace_size = 4 * workspace.len();
            // SAFETY: the memory is as the description says.
            let status = unsafe { (library.kfa_attention_forward)(&d) };
            if status != KFA_OK {
                return Err(format!("status {status}: {}", library.last_error()));
            }
            let tensor = |data, row_stride| Tensor {
                data: Elements::F32(data),
                batch_stride: 0,
                row_stride,
                head_stride: 64,
            };
            let cache = |data| Cache { tensor: tensor(data, ROW), ..Cache::default() };
            let attention = Attention {
                batch: 1,
                q_len,
                kv_len: KEYS,
                heads: 1,
                kv_heads: 1,
                head_dim: 64,
                value_head_dim: 64,
                query: tensor(&query, 64),
                key: cache(&*key),
                value: cache(&*value),
                ..Attention::default()
            };
            for row in 0..q_len {
                let want = attention.row(0, row, 0).output;
                for (got, want) in output[64 * row..].iter().zip(&want) {
                    if (f64::from(*got) - want).abs() >= 1e-5 {
                        return Err(format!("row {row}: {got}, want {want}"));
                    }
                }
            }
        }
    }
    Ok(Outcome::Served("far apart".into()))
}

/// Runs every n-th of all cases, in this process; the counts of served and refused, or what failed.
pub fn run(every: usize) -> Result<[usize; 2], Vec<String>> {
    let mut failed = vec![];
    let mut counts = [0, 0];
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    let product = pairwise().into_iter().map(|case| ("product".to_string(), case));
    for (name, case) in traps().into_iter().chain(product).step_by(every) {
        match run::run(&case) {
            Ok(Outcome::Served(_)) => counts[0] += 1,
            Ok(Outcome::Refused(why)) => {
                counts[1] += 1;
                // The last kernel of the list lacks the least.
                let lacks = why.rsplit("does not implement ").next().unwrap_or(&why);
                for feature in lacks.split([';', '\n']).next().unwrap_or("").split(", ") {
                    *refusals.entry(feature.to_string()).or_default() += 1;
                }
            }
            Err(error) => failed.push(format!(
                "{name}: {error}\n  {{\"Valid\":{}}}",
                serde_json::to_string(&case).unwrap()
            )),
        }
    }
    match far_apart() {
        Ok(_) => counts[0] += 1,
        Err(error) => failed.push(format!("keys more than 2^31 elements apart: {error}")),
    }
    if std::env::var_os("KFA_FUZZ_VERBOSE").is_some() {
        refusals.iter().for_each(|(why, count)| eprintln!("{count:5} {why}"));
    }
    if failed.is_empty() { Ok(counts) } else { Err(failed) }
}
