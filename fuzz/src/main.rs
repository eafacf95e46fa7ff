//! Random calls on the library's C ABI: `kfa-fuzz MINUTES [SEED]` runs them for a while, `kfa-fuzz
//! corpus` those that once failed, and `kfa-fuzz product [N]` (every N-th of) the product of features. Every instruction set and several thread counts have
//! processes of their own, so that a crash is a finding like any other.

mod call;
mod case;
mod engine;
mod invalid;
mod library;
mod memory;
mod merge;
mod process;
mod product;
mod random;
mod run;
mod storage;

use case::Case;
use engine::EngineCase;
use merge::MergeCase;
use random::Random;
use run::Outcome;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus.jsonl");
const ISAS: [&str; 4] = ["", "avx512", "avx2", "portable"];
const THREADS: [&str; 3] = ["1", "2", "5"];

/// What a process is at, so that its end tells which case killed it; a line of the corpus.
#[derive(Debug, Serialize, Deserialize)]
enum Task {
    Valid(Case),
    /// With a seed of a change to the description that makes it wrong, or odd.
    Invalid(Case, u64),
    Engine(EngineCase),
    Merge(MergeCase),
    Process(u64),
}

impl Task {
    fn random(random: &mut Random) -> Self {
        let seed = random.next();
        let kind = random.below(20);
        // Sizes are as they come; of all else most is plain, or one feature refused would refuse all.
        let plain = random.pick(&[2, 4, 12]);
        let mut choose = |name: &'static str, levels: usize| {
            let is_plain = kind < 16 && !case::SIZES.contains(&name) && !random.chance(plain);
            if is_plain { 0 } else { random.below(levels) }
        };
        match kind {
            0..10 => Task::Valid(Case::choose(seed, &mut choose)),
            10..16 => Task::Invalid(Case::choose(seed, &mut choose), seed),
            16..18 => Task::Engine(EngineCase::choose(seed, &mut choose)),
            18 => Task::Merge(MergeCase::choose(seed, &mut choose)),
            _ => Task::Process(seed),
        }
    }

    fn run(&self) -> Result<Outcome, String> {
        match self {
            Task::Valid(case) => run::run(case),
            Task::Invalid(case, seed) => {
                invalid::run(case, *seed).map(|_| Outcome::Served("mutated".into()))
            }
            Task::Engine(case) => case.run(),
            Task::Merge(case) => case.run(),
            Task::Process(seed) => process::run(*seed),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["child", seed, seconds, note] => {
            child(seed.parse().unwrap(), seconds.parse().unwrap(), Path::new(note))
        }
        ["replay", line, note] => replay(line, Path::new(note)),
        ["corpus"] => corpus(),
        ["product"] => product(1),
        ["product", every] => product(every.parse().expect("a number")),
        ["product-here", every] => product_here(every.parse().unwrap()),
        [minutes] => fuzz(minutes.parse().expect("minutes"), 1),
        [minutes, seed] => fuzz(minutes.parse().expect("minutes"), seed.parse().expect("a seed")),
        _ => {
            eprintln!("usage: kfa-fuzz MINUTES [SEED] | corpus | product [N]");
            ExitCode::from(2)
        }
    }
}

/// Runs random tasks for a time and says what came of them.
fn child(seed: u64, seconds: f64, note: &Path) -> ExitCode {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut random = Random(seed);
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    while Instant::now() < end {
        let task = Task::random(&mut random);
        fs::write(note, serde_json::to_string(&task).unwrap()).unwrap();
        match task.run() {
            Ok(Outcome::Served(kernel)) => *outcomes.entry(kernel).or_default() += 1,
            Ok(Outcome::Refused(_)) => *outcomes.entry("refused".into()).or_default() += 1,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    let _ = fs::remove_file(note);
    for (outcome, count) in outcomes {
        println!("{count} {outcome}");
    }
    ExitCode::SUCCESS
}

fn replay(line: &str, note: &Path) -> ExitCode {
    fs::write(note, line).unwrap();
    let task: Task = serde_json::from_str(line).unwrap();
    match task.run() {
        Ok(outcome) => {
            println!(
                "1 {}",
                if matches!(outcome, Outcome::Served(_)) { "served" } else { "refused" }
            );
            let _ = fs::remove_file(note);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a process of ours under an instruction set and a thread count; its outcomes, or how it failed.
fn spawn(arguments: &[&str], isa: &str, threads: &str) -> Result<Vec<(String, usize)>, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).env("KFA_NUM_THREADS", threads).stdin(Stdio::null());
    if !isa.is_empty() {
        command.env("KFA_CPU_ISA", isa);
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, text(&output.stderr)));
    }
    let line = |line: &str| {
        let (count, outcome) = line.split_once(' ').unwrap();
        (outcome.to_string(), count.parse().unwrap())
    };
    Ok(text(&output.stdout).lines().map(line).collect())
}

fn note() -> PathBuf {
    std::env::temp_dir().join(format!("kfa-fuzz-{}", std::process::id()))
}

fn report(isa: &str, threads: &str, what: &str, error: &str) {
    let isa = if isa.is_empty() { "default" } else { isa };
    println!("FAILED with instruction set {isa}, {threads} threads: {error}\n  {what}");
}

/// Runs processes of a few seconds each until the time is over; failures become corpus cases.
fn fuzz(minutes: f64, seed: u64) -> ExitCode {
    let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    let slice = (60.0 * minutes / 12.0).clamp(1.0, 60.0).to_string();
    let mut random = Random(seed);
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut failed = 0;
    let mut round = 0;
    while Instant::now() < end {
        let isa = ISAS[round % ISAS.len()];
        let threads = THREADS[round % THREADS.len()];
        let child_seed = random.next().to_string();
        let note = note();
        match spawn(&["child", &child_seed, &slice, note.to_str().unwrap()], isa, threads) {
            Ok(counts) => counts.into_iter().for_each(|(outcome, count)| {
                *outcomes.entry(outcome).or_default() += count;
            }),
            Err(error) => {
                let task = fs::read_to_string(&note).unwrap_or_default();
                report(isa, threads, &task, &error);
                let mut corpus =
                    fs::OpenOptions::new().append(true).create(true).open(CORPUS).unwrap();
                writeln!(corpus, "{task}").unwrap();
                failed += 1;
            }
        }
        round += 1;
    }
    for (outcome, count) in &outcomes {
        println!("{count:9} {outcome}");
    }
    println!("{} passed, {failed} failed", outcomes.values().sum::<usize>());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every case that ever failed, under every instruction set.
fn corpus() -> ExitCode {
    let text = fs::read_to_string(CORPUS).unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    for line in text.lines() {
        for (isa, threads) in ISAS.iter().flat_map(|isa| ["1", "3"].map(|threads| (isa, threads))) {
            match spawn(&["replay", line, note().to_str().unwrap()], isa, threads) {
                Ok(_) => passed += 1,
                Err(error) => {
                    report(isa, threads, line, &error);
                    failed += 1;
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The product of features under every instruction set.
fn product(every: usize) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (isa, threads) in ISAS.into_iter().zip(["2", "5", "1", "3"]) {
        match spawn(&["product-here", &every.to_string()], isa, threads) {
            Ok(counts) => {
                let isa = if isa.is_empty() { "default" } else { isa };
                let words: Vec<_> =
                    counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
                println!("{isa}, {threads} threads: {}", words.join(", "));
                passed += counts.iter().map(|(_, count)| count).sum::<usize>();
            }
            Err(error) => {
                report(isa, threads, "product", &error);
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn product_here(every: usize) -> ExitCode {
    match product::run(every) {
        Ok([served, refused]) => {
            println!("{served} served\n{refused} refused");
            ExitCode::SUCCESS
        }
        Err(failed) => {
            failed.iter().for_each(|failure| eprintln!("{failure}"));
            ExitCode::FAILURE
        }
    }
}
