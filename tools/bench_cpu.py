#!/usr/bin/env python3
"""Times our CPU kernels against every attention that a C++ engine could link, on this machine.

    bench_cpu.py [--threads 1,2] [--quick] [--no-peers] [--only prefill,decode,decode16,standard,latency]
                 [--rounds N] [--pages thp|4k] [--peers NAME,...] [--json OUT] [--plot OUT.svg]
    bench_cpu.py --from RECORD.json [--plot OUT.svg]

Peers: onnxruntime's GroupQueryAttention, torch's and openvino's scaled_dot_product_attention, ggml's
flash_attn_ext and candle's, at pinned versions. They, and this script's own needs, are installed into
build/bench by the ordinary clients of PyPI and crates.io; one that cannot be is named with the reason.

Every contender is a process of its own (peers/worker.py) with the same inputs, in the layout that it
likes best. One at a time runs, the others are stopped (SIGSTOP), so that no thread pool spins beside a
rival. In each round all take turns, with them the ceilings: FMA peak, plain reads from memory. A
contender's time is the median over rounds of its median in a round, after a warm-up. "cold" goes through
copies of the cache that together are several times the last-level cache; "hot" repeats one copy. Every
result is compared with float64 before it is timed. Rates count useful work alone: half the square for
causal prefill, each key and value once for decode. Peers called from Python carry its cost per call;
table "latency" shows it.
"""

import argparse
import atexit
import ctypes
import hashlib
import json
import os
import platform
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "tools/peers"
BUILD = ROOT / "build/bench"
PYTHON = BUILD / "venv/bin/python"
NUMPY = "numpy==2.4.6"
PLOTTING = "matplotlib==3.10.0"
PYPI = {
    "onnxruntime": ["onnxruntime==1.32.0", "onnx==1.23.2"],
    "torch": [],  # see install_torch()
    "openvino": ["openvino==2026.4.1"],
}
NAMES = ["onnxruntime", "torch", "openvino", "ggml", "candle"]
TABLES = ["prefill", "decode", "decode16", "standard", "latency"]
# torch's decode where the caller folds a group's heads into query rows; no peer's own grouped attention,
# so it is compared apart from them.
GROUPED = "torch grouped"
ACCURATE = 1e-2  # a peer's error from here on is flagged

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", help="thread counts; default: 1 and all CPUs of this process")
parser.add_argument("--only", default=",".join(TABLES), help="tables: " + ", ".join(TABLES))
parser.add_argument("--quick", action="store_true", help="fewer shapes, rounds and milliseconds")
parser.add_argument("--no-peers", action="store_true")
parser.add_argument("--peers", default=",".join(NAMES), help="peers: " + ", ".join(NAMES))
parser.add_argument("--rounds", type=int, help="turns of each contender; default 7, quick 3")
parser.add_argument("--pages", choices=["thp", "4k"], default="thp", help="pages of all caches and tensors")
parser.add_argument("--json")
parser.add_argument("--plot")
parser.add_argument("--from", dest="record")


def stop(text):
    sys.exit(f"bench_cpu: {text}")


# --- what has to be built and installed ------------------------------------------------------------


def command(*words, **options):
    """Runs a command quietly; raises with the end of what it said."""
    done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        tail = " / ".join(line.strip() for line in done.stdout.strip().splitlines()[-3:])
        raise RuntimeError(f"{Path(words[0]).name} {words[1] if len(words) > 1 else ''}: {tail}"[:400])
    return done.stdout


def pip(*requirements):
    command(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements)


def into_venv():
    """Goes on inside our own virtual environment, which is made at the first run."""
    if Path(sys.prefix).resolve() == PYTHON.parent.parent.resolve():
        return
    if not PYTHON.exists():
        print(f"bench_cpu: making {PYTHON.parent.parent.relative_to(ROOT)}", file=sys.stderr)
        command(sys.executable, "-m", "venv", PYTHON.parent.parent)
    os.execv(PYTHON, [str(PYTHON), *sys.argv])


def once(name, content, make):
    """Runs `make` unless it ran with this content before; content is anything that matters to it."""
    mark = BUILD / f"{name}.done"
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    if not mark.exists() or mark.read_text() != key:
        print(f"bench_cpu: preparing {name}", file=sys.stderr, flush=True)
        make()
        mark.write_text(key)


def sources(*paths):
    return [Path(path).read_text() for path in paths]


def build_ceilings():
    library = BUILD / "libceilings.so"
    once("ceilings", sources(PEERS / "ceilings.c"), lambda: command(
        "gcc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread", "-o", library, PEERS / "ceilings.c"))
    return library


def build_ours():
    if "KFA_LIB" in os.environ:
        return Path(os.environ["KFA_LIB"]).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR", BUILD / "cargo"))
    print("bench_cpu: building the library without CUDA", file=sys.stderr, flush=True)
    environment = dict(os.environ, CARGO_TARGET_DIR=str(target))
    command("cargo", "build", "--release", "--no-default-features", cwd=ROOT, env=environment)
    return target / "release/libkuiper_flash_attention.so"


def rust_dependency(package):
    """Manifest and version of a package in the peers' lock file."""
    words = ["cargo", "metadata", "--format-version=1", "--all-features", "--locked"]
    done = subprocess.run(words, cwd=PEERS / "candle", capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = next(p for p in json.loads(done.stdout)["packages"] if p["name"] == package)
    return Path(found["manifest_path"]), found["version"]


def install_torch():
    """torch without its 2 GB of CUDA libraries; see peers/torch_without_cuda.py."""
    small = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]
    pip("--no-deps", "torch==2.11.0", *(small if platform.machine() == "x86_64" else []))
    pip("typing-extensions==4.16.0", "filelock", "sympy", "networkx", "jinja2", "fsspec")
    if platform.machine() == "x86_64":
        library = next((BUILD / "venv/lib").glob("python*/site-packages/torch/lib"))
        command(PYTHON, PEERS / "torch_without_cuda.py", library, BUILD / "torch-stubs")


def build_ggml():
    manifest, version = rust_dependency("llama-cpp-sys-2")
    out, source = BUILD / "ggml", manifest.parent / "llama.cpp/ggml"
    command("cmake", "-S", PEERS / "ggml", "-B", out, "-DCMAKE_BUILD_TYPE=Release", f"-DGGML_SOURCE={source}")
    command("cmake", "--build", out, "--target", "ggml_peer", "-j", len(os.sched_getaffinity(0)))
    found = re.findall(r"set\(GGML_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\)", (source / "CMakeLists.txt").read_text())
    (BUILD / "ggml.version").write_text(f"ggml {'.'.join(found)} (of llama-cpp-sys-2 {version})")


def build_candle():
    environment = dict(os.environ, CARGO_TARGET_DIR=str(BUILD / "candle"), RUSTFLAGS="-C target-cpu=native")
    command("cargo", "build", "--release", "--locked", cwd=PEERS / "candle", env=environment)
    (BUILD / "candle.version").write_text(f"candle {rust_dependency('candle-nn')[1]}")


def prepare_peers(wanted):
    """Installs what it can; returns {name: reason} of what it cannot."""
    candle = sources(PEERS / "candle/Cargo.lock", PEERS / "candle/src/lib.rs")
    ggml = sources(PEERS / "candle/Cargo.lock", PEERS / "ggml/peer.c", PEERS / "ggml/CMakeLists.txt")
    steps = {
        "onnxruntime": (PYPI["onnxruntime"], lambda: pip(*PYPI["onnxruntime"])),
        "torch": (["torch==2.11.0", *sources(PEERS / "torch_without_cuda.py")], install_torch),
        "openvino": (PYPI["openvino"], lambda: pip(*PYPI["openvino"])),
        "ggml": (ggml, build_ggml),
        "candle": (candle, build_candle),
    }
    missing = {}
    for name in wanted:
        try:
            once(name, *steps[name])
        except (RuntimeError, OSError, StopIteration, subprocess.SubprocessError) as error:
            missing[name] = str(error) or type(error).__name__
    return missing


# --- contenders: processes that sleep until it is their turn ---------------------------------------


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped child would stay for ever


class Contender:
    """A worker process that is stopped but while it answers a command."""

    def __init__(self, label, implementation, threads, environment, kinds=("f32", "f32"), mode="auto"):
        self.label, self.implementation, self.threads = label, implementation, threads
        self.environment, self.kinds, self.mode = environment, kinds, mode
        self.process, self.dead, self.version = None, None, ""

    def start(self):
        count = str(self.threads)
        environment = dict(self.environment, OMP_NUM_THREADS=count, RAYON_NUM_THREADS=count, MKL_NUM_THREADS=count,
                           OPENBLAS_NUM_THREADS=count)
        if self.implementation == "torch":
            environment["LD_LIBRARY_PATH"] = str(BUILD / "torch-stubs")
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([PYTHON, PEERS / "worker.py", self.implementation, count], env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        preexec_fn=die_with_parent)
        atexit.register(self.kill)
        answer = self.ask("hello", timeout=120)
        self.version = answer.get("version", "")
        if not self.version:
            self.dead = self.dead or answer["failed"]

    def ask(self, command, timeout=300, **message):
        """The answer to a command; {"failed": reason} where there is none."""
        if self.process is None:
            self.start()
        if self.dead:
            return dict(failed=self.dead)
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.stdin.write(json.dumps(dict(message, command=command)).encode() + b"\n")
        self.process.stdin.flush()
        line = b""
        if select.select([self.process.stdout], [], [], timeout)[0]:
            line = self.process.stdout.readline()
        if not line:
            try:
                code = self.process.wait(1)
            except subprocess.TimeoutExpired:
                code = None
            self.kill()
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines()[-1:]
            self.dead = f"no answer in {timeout} s" if code is None else f"ended with {code}: {' '.join(said)}"[:300]
            return dict(failed=self.dead)
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        return json.loads(line)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


# --- shapes, inputs and the oracle -----------------------------------------------------------------


def shape(heads, kv_heads, dim, q_len, kv_len):
    return dict(heads=heads, kv_heads=kv_heads, dim=dim, q_len=q_len, kv_len=kv_len)


def prefill_shapes(quick):
    if quick:
        return [shape(32, 32, 128, s, s) for s in (512, 1024)] + [shape(32, 8, 128, 1024, 1024), shape(32, 32, 64, 1024, 1024)]
    shapes = [shape(32, kv_heads, 128, s, s) for kv_heads in (32, 8) for s in (512, 1024, 2048, 4096)]
    return shapes + [shape(32, 32, 64, s, s) for s in (512, 1024, 2048)]


def decode_shapes(quick, lengths=(128, 512, 2048, 8192, 32768)):
    lengths = [n for n in lengths if not quick or n in (128, 2048, 8192)]
    return [shape(32, kv_heads, 128, 1, kv_len) for kv_heads in (32, 8) for kv_len in lengths]


def name_of(s):
    return f"{s['heads']}/{s['kv_heads']}/{s['dim']} {s['kv_len']}"


def flops(s):
    """Useful ones: two products over the keys that each row sees."""
    seen = sum((s["kv_len"] - s["q_len"] + 1, s["kv_len"])) * s["q_len"] / 2
    return 4 * s["heads"] * s["dim"] * seen


def cache_bytes(s, kind="f32"):
    return 2 * s["kv_len"] * s["kv_heads"] * s["dim"] * (4 if kind == "f32" else 2)


def oracle(q, k, v, rows):
    """float64 attention of some query rows, [rows, heads, dim]."""
    import numpy as np

    q_len, heads, dim = q.shape
    kv_len, kv_heads, _ = k.shape
    out = np.empty((len(rows), heads, dim))
    hidden = np.arange(kv_len)[None, :] > (kv_len - q_len + rows)[:, None]
    for kv_head in range(kv_heads):
        key, value = k[:, kv_head].astype(np.float64), v[:, kv_head].astype(np.float64)
        for head in range(kv_head * heads // kv_heads, (kv_head + 1) * heads // kv_heads):
            scores = q[rows, head].astype(np.float64) @ key.T / np.sqrt(dim)
            scores[hidden] = -np.inf
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = scores @ value / scores.sum(axis=1, keepdims=True)
    return out


class Inputs:
    """Unit-normal inputs of a shape and what float64 makes of them, in files for the workers.

    With `kind` "f16" or "bf16" the values are rounded to that first, so that storing them so is exact.
    Of long prefills the first and last rows and a random choice between are compared.
    """

    def __init__(self, s, kind="f32"):
        import numpy as np

        sys.path.insert(0, str(PEERS))
        from worker import cast, uncast

        rng = np.random.default_rng(4)
        make = lambda *size: rng.standard_normal(size, np.float32)
        q = make(s["q_len"], s["heads"], s["dim"])
        k, v = (make(s["kv_len"], s["kv_heads"], s["dim"]) for _ in range(2))
        if kind != "f32":
            q, k, v = (uncast(cast(x, kind)).astype(np.float32) for x in (q, k, v))
        q_len, edge = s["q_len"], 48
        rows = np.arange(q_len)
        if q_len > 4 * edge:
            rows = np.concatenate([rows[:edge], np.sort(rng.choice(rows[edge:-edge], 2 * edge, False)), rows[-edge:]])
        self.folder = tempfile.TemporaryDirectory(dir=BUILD, prefix="inputs-")
        at = Path(self.folder.name)
        with open(at / "inputs", "wb") as file:
            for x in (q, k, v):
                x.tofile(file)
        np.save(at / "rows.npy", rows)
        np.save(at / "want.npy", oracle(q, k, v, rows))
        self.files = dict(inputs=str(at / "inputs"), rows=str(at / "rows.npy"), want=str(at / "want.npy"))


# --- the contest -----------------------------------------------------------------------------------


def last_level_cache():
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]])
    return max(sizes) or 32 << 20


def copies_for(s, kind):
    """So many that going through them leaves nothing in the last-level cache."""
    return max(1, min(512, -(-3 * last_level_cache() // cache_bytes(s, kind))))


def median(values):
    return statistics.median(values) if values else None


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.rows, self.notes = [], []
        self.began = time.time()
        self.quick = arguments.quick
        self.rounds = arguments.rounds or (3 if self.quick else 7)
        self.tables = arguments.only.split(",")
        if unknown := set(self.tables) - set(TABLES):
            stop(f"--only {','.join(unknown)}: expected some of {', '.join(TABLES)}")
        self.peers = [] if arguments.no_peers else arguments.peers.split(",")
        if unknown := set(self.peers) - set(NAMES):
            stop(f"--peers {','.join(unknown)}: expected some of {', '.join(NAMES)}")
        cpus = len(os.sched_getaffinity(0))
        self.thread_counts = [int(n) for n in (arguments.threads or f"1,{cpus}").split(",")]
        self.thread_counts = list(dict.fromkeys(self.thread_counts))
        if max(self.thread_counts) > cpus:
            self.note(f"{max(self.thread_counts)} threads on {cpus} CPUs")
        self.contenders = {}

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)
            print(f"note: {text}", flush=True)

    def prepare(self):
        BUILD.mkdir(parents=True, exist_ok=True)
        self.missing = prepare_peers(self.peers)
        self.peers = [name for name in self.peers if name not in self.missing]
        self.environment = dict(os.environ, CEILINGS=str(build_ceilings()), KFA_LIB=str(build_ours()),
                                GGML_PEER=str(BUILD / "ggml/libggml_peer.so"),
                                CANDLE_PEER=str(BUILD / "candle/release/libcandle_peer.so"))
        for name in ("ggml", "candle"):
            if name in self.peers:
                self.environment[name.upper() + "_VERSION"] = (BUILD / f"{name}.version").read_text()
        # What an implementation allocates for itself comes on the same pages, where malloc maps it.
        self.environment.pop("GLIBC_TUNABLES", None)
        if self.arguments.pages == "thp":
            self.environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        for variable in ("KFA_NUM_THREADS", "KFA_DISABLE_FLASH_ATTENTION"):
            if self.environment.pop(variable, None):
                self.note(f"{variable} is not heeded")

    def contender(self, threads, label, implementation, kinds=("f32", "f32"), mode="auto"):
        """A worker; started at its first use and kept for the whole run."""
        key = threads, implementation, kinds, mode
        if key not in self.contenders:
            self.contenders[key] = Contender(label, implementation, threads, self.environment, kinds, mode)
        found = self.contenders[key]
        found.label = label
        return found

    def versions(self):
        """Names every contender's version; a peer that does not start is missing."""
        threads = self.thread_counts[0]
        found = {}
        for name in ["kfa", "ceilings", *self.peers]:
            worker = self.contender(threads, name, name)
            worker.start()
            if worker.dead:
                if name in ("kfa", "ceilings"):
                    stop(f"{name}: {worker.dead}")
                self.missing[name] = worker.dead
            found[name] = worker.version
        self.peers = [name for name in self.peers if name not in self.missing]
        return found

    def ceilings(self, threads):
        return self.contender(threads, "ceilings", "ceilings")

    def contest(self, table, s, threads, contenders, inputs, states=("hot",), seconds=40):
        """Runs one shape; keeps and prints its rows, one per cache state."""
        rows = {state: dict(table=table, name=name_of(s), shape=s, threads=threads, state=state, ceilings={}, contenders={})
                for state in states}
        ready = []
        for contender in contenders:
            copies = copies_for(s, contender.kinds[1]) if "cold" in states else 1
            answer = contender.ask("setup", shape=dict(s, mode=contender.mode), kinds=contender.kinds, copies=copies,
                                   pages=self.arguments.pages, **inputs.files)
            answer["copies"] = copies
            for row in rows.values():
                row["contenders"][contender.label] = dict(answer, implementation=contender.implementation)
            if "failed" in answer or "unsupported" in answer:
                self.excuse(table, s, contender, answer)
            else:
                ready.append((contender, answer["tried"][answer["variant"]]["ms"]))
        if not ready:
            return
        if "cold" in rows and len(rows) > 1 and max(c["copies"] for c in rows["cold"]["contenders"].values()) == 1:
            del rows["hot"]  # one copy is several times the cache: every call finds it cold
        fastest = min(ms for _, ms in ready)
        times = {(contender, state): [] for contender, _ in ready for state in rows}
        ceilings = {}
        begin = time.time()
        for turn in range(self.rounds):
            if turn >= 2 and time.time() - begin > seconds:
                break
            question = dict(fma=30) if s["q_len"] > 1 else dict(
                read=["thp", "4k"], bytes=max(256 << 20, 3 * last_level_cache()))
            got = self.contender(threads, "ceilings", "ceilings").ask("ceiling", **question)
            for name, value in dict(got, **got.pop("fma", {})).items():
                ceilings.setdefault(name, []).append(value)
            for index in range(len(ready)):
                contender, ms = ready[(index + turn) % len(ready)]
                if turn >= 2 and ms > 4 * fastest or turn >= 1 and ms > 8 * fastest:
                    continue  # far behind: two rounds show it, or one
                for state, row in rows.items():
                    answer = contender.ask("time", cold=state == "cold", milliseconds=20 if self.quick else 60, calls=200,
                                           long=ms > 50)
                    if "ns" not in answer:
                        row["contenders"][contender.label].update(answer)
                        self.excuse(table, s, contender, answer)
                        continue
                    times[contender, state].append(answer["ns"])
                    mine = row["contenders"][contender.label]
                    mine["cpus"] = max(mine.get("cpus", 0), answer["cpus"])
        for contender in contenders:
            contender.ask("drop")
        for state, row in rows.items():
            row["ceilings"] = {name: median(values) for name, values in ceilings.items()}
            for contender, _ in ready:
                if rounds := times[contender, state]:
                    self.rate(row, contender, rounds)
            self.judge(row)
            self.rows.append(row)
            self.show(row)

    def excuse(self, table, s, contender, answer):
        """Says why a contender is missing from a row."""
        word = "failed" if "failed" in answer else "unsupported"
        where = f"{table} {name_of(s)}, {contender.threads} threads" if word == "failed" else table
        self.note(f"{contender.label}, {where}: {word}: {answer[word]}")

    def rate(self, row, contender, rounds):
        mine, s = row["contenders"][contender.label], row["shape"]
        ms = mine["ms"] = median([median(round_) for round_ in rounds]) / 1e6
        mine.update(best_ms=min(map(min, rounds)) / 1e6, rounds=len(rounds), calls=sum(map(len, rounds)))
        if s["q_len"] > 1:
            mine["rate"], mine["unit"] = flops(s) / ms / 1e6, "GF/s"
            ceiling = max((v for k, v in row["ceilings"].items() if k not in ("thp", "4k")), default=None)
        else:
            mine["rate"], mine["unit"] = cache_bytes(s, contender.kinds[1]) / ms / 1e6, "GB/s"
            ceiling = row["ceilings"].get(self.arguments.pages) if row["state"] == "cold" else None
        if ceiling:
            mine["fraction"] = mine["rate"] / ceiling

    def judge(self, row):
        """The best accurate peer, and how much longer than ours it takes."""
        peers = {label: c["ms"] for label, c in row["contenders"].items()
                 if c["implementation"] in NAMES and "ms" in c and c["error"] < ACCURATE}
        ours = row["contenders"].get("kfa", {})
        if "ms" not in ours:
            return
        if GROUPED in peers:
            row["grouped_ratio"] = peers.pop(GROUPED) / ours["ms"]
        if peers:
            row["best_peer"] = min(peers, key=peers.get)
            row["ratio"] = peers[row["best_peer"]] / ours["ms"]

    def show(self, row):
        cells = []
        for label, c in row["contenders"].items():
            if "ms" not in c:
                cells.append(f"{label} -")
                continue
            cell = f"{label} {significant(c['ms'])}"
            if c["implementation"] == "kfa":
                cell += f" ms {significant(c['rate'])} {c['unit']}" + (f" {c['fraction']:.0%}" if "fraction" in c else "")
            elif c["error"] >= ACCURATE:
                cell += f" WRONG by {c['error']:.0e}"
            if c.get("cpus", 0) > row["threads"] + 0.25:
                cell += f" (used {c['cpus']:.1f} CPUs)"
            cells.append(cell)
        ratio = f"{row['ratio']:.2f}x {row['best_peer']}" if "ratio" in row else ""
        errors = [c["error"] for c in row["contenders"].values() if c["implementation"] == "kfa" and "error" in c]
        error = f"err {max(errors):.0e}" if errors else ""
        print(f"{row['name']:16} {row['threads']}T {row['state']:4}  {'  '.join(cells)}  | {ratio} {error}", flush=True)

    def heading(self, table, text):
        print(f"\n{table}: {text}", flush=True)

    def f32(self, threads, s):
        found = [self.contender(threads, name, name) for name in ["kfa", *self.peers]]
        return found + self.grouped(threads, s, ("f32", "f32"), GROUPED)

    def grouped(self, threads, s, kinds, label):
        wanted = "torch" in self.peers and s["q_len"] == 1 and s["heads"] > s["kv_heads"]
        return [self.contender(threads, label, "torch", kinds, "grouped")] if wanted else []

    # --- tables ---

    def prefill(self):
        self.heading("prefill", "causal, f32, ms; GF/s and share of the FMA peak; heads/kv_heads/head_dim keys")
        for s in prefill_shapes(self.quick):
            inputs = Inputs(s)
            for threads in self.thread_counts:
                self.contest("prefill", s, threads, self.f32(threads, s), inputs, seconds=4 if self.quick else 25)

    def decode(self):
        self.heading("decode", f"one query row, f32, ms; GB/s of cache and share of the read bandwidth ({self.arguments.pages})")
        for s in decode_shapes(self.quick):
            inputs = Inputs(s)
            for threads in self.thread_counts:
                self.contest("decode", s, threads, self.f32(threads, s), inputs, ("cold", "hot"), 4 if self.quick else 20)

    def decode16(self):
        self.heading("decode16", "one query row, 16-bit cache; kfa is ours in f32 on the same values")
        for s in decode_shapes(False, (8192,) if self.quick else (512, 2048, 8192)):
            if self.quick and s["kv_heads"] == 32:
                continue
            for kind in ("f16", "bf16"):
                if kind == "bf16" and s["kv_len"] != 8192:
                    continue
                inputs = Inputs(s, kind)
                for threads in self.thread_counts:
                    contenders = [self.contender(threads, "kfa", "kfa"),
                                  self.contender(threads, f"kfa f32+{kind}", "kfa", ("f32", kind)),
                                  self.contender(threads, f"kfa {kind}", "kfa", (kind, kind))]
                    for name in self.peers:
                        if name in ("onnxruntime", "torch"):
                            kinds = kind, kind
                        else:
                            kinds = "f32", kind
                        if name != "candle" and (kind == "f16" or name == "torch"):
                            label = f"{name} {'' if kinds[0] == kind else 'f32+'}{kind}"
                            contenders.append(self.contender(threads, label, name, kinds))
                    contenders += self.grouped(threads, s, (kind, kind), f"{GROUPED} {kind}")
                    self.contest("decode16", s, threads, contenders, inputs, ("cold",), 4 if self.quick else 15)

    def standard(self):
        self.heading("standard", "ours against our standard MHA, f32, ms; then growth of a process's peak memory in one call")
        length = 1024 if self.quick else 2048
        shapes = [shape(32, kv_heads, 128, length, length) for kv_heads in (32, 8)] + [shape(32, 8, 128, 1, 2048)]
        for s in shapes[1:] if self.quick else shapes:
            inputs = Inputs(s)
            for threads in self.thread_counts:
                contenders = [self.contender(threads, "kfa", "kfa"),
                              self.contender(threads, "kfa standard", "kfa", mode="standard")]
                self.contest("standard", s, threads, contenders, inputs, seconds=6 if self.quick else 15)
            memory = {}
            for mode in ("auto", "standard"):
                fresh = Contender(mode, "kfa", self.thread_counts[-1], self.environment)
                memory[mode] = fresh.ask("memory", shape=dict(s, mode=mode), kinds=("f32", "f32"), copies=1, pages="4k",
                                         **inputs.files)
                fresh.kill()
            row = dict(table="memory", name=name_of(s), shape=s, threads=self.thread_counts[-1], memory=memory)
            self.rows.append(row)
            print(f"{row['name']:16} {row['threads']}T peak memory of one call: " + ", ".join(
                f"{m.get('kernel', mode)} {m['bytes'] / 1024:.0f} KiB" if "bytes" in m else f"{mode} failed: {m['failed']}"
                for mode, m in memory.items()), flush=True)

    def latency(self):
        self.heading("latency", "hot calls, us, p50; ours in a C loop, by threads")
        lengths = (1, 8, 16, 32, 64, 128, 256)
        for s in [shape(32, 8, 128, 1, n) for n in lengths]:
            inputs = Inputs(s)
            found = {}
            for threads in self.thread_counts:
                runs = [self.contender(threads, "kfa", "kfa").ask(
                    "latency", shape=dict(s, mode="auto"), kinds=("f32", "f32"), copies=1, pages=self.arguments.pages,
                    calls=2000, **inputs.files)["ns"] for _ in range(min(5, self.rounds))]
                found[threads] = median([median(run) for run in runs]) / 1e3
            row = dict(table="latency", name=name_of(s), shape=s, us=found)
            if len(found) > 1:
                one, many = found[self.thread_counts[0]], found[self.thread_counts[-1]]
                row["overhead_us"] = many - one * self.thread_counts[0] / self.thread_counts[-1]
            self.rows.append(row)
            print(f"{row['name']:16} " + "  ".join(f"{t}T {us:.2f}" for t, us in found.items()) + (
                f"  beyond an even share {row['overhead_us']:.2f}" if "overhead_us" in row else ""), flush=True)
        print("a call from Python over one key, ms: what the peers' times carry", flush=True)
        s = shape(32, 8, 128, 1, 1)
        inputs = Inputs(s)
        for threads in self.thread_counts:
            self.contest("call", s, threads, self.f32(threads, s), inputs)

    # --- the whole ---

    def run(self):
        self.prepare()
        versions = self.versions()
        load = os.getloadavg()[0]
        self.record = dict(date=time.strftime("%Y-%m-%d %H:%M", time.gmtime()), processor=processor(), load=load,
                           threads=self.thread_counts, pages=self.arguments.pages, rounds=self.rounds, quick=self.quick,
                           versions=versions, missing=self.missing, rows=self.rows, notes=self.notes)
        print(f"{processor()}; {versions['ceilings']}; load {load:.2f} at the start\n{versions['kfa']}")
        print("peers: " + (", ".join(versions[name] for name in self.peers) or "none"))
        for name, reason in self.missing.items():
            print(f"peer missing: {name}: {reason}")
        print("peer missing: ik_llama.cpp: in no package registry", flush=True)
        if load > 0.5 * len(os.sched_getaffinity(0)):
            self.note("other work runs on this machine; its times are no record")
        for table in TABLES:
            if table in self.tables:
                getattr(self, table)()
                for key in [key for key, c in self.contenders.items() if c.kinds != ("f32", "f32")]:
                    self.contenders.pop(key).kill()  # only one table uses them; torch alone is 0.3 GB
        self.record["seconds"] = time.time() - self.began


def significant(x):
    """Three digits."""
    return f"{x:.3g}" if x < 100 else f"{x:.0f}"


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {os.cpu_count()} CPUs"
    return f"{platform.machine()}, {os.cpu_count()} CPUs"


# --- verdicts and plot -----------------------------------------------------------------------------


def verdicts(record):
    """What CPU kernels are held to, each bar with the rows that decide it: (bar, met, total, the worst)."""
    rows = record["rows"]
    found = []

    def bar(name, table, value, least, keep=lambda r: True, form="{:.2f}x", most=None):
        values = []
        for r in rows:
            if r["table"] == table and keep(r):
                x = value(r)
                if x is not None:
                    values.append((x, f"{r['name']} {r.get('threads', '')}{'T' if 'threads' in r else ''}"))
        if not values:
            return
        good = (lambda x: x <= most) if most is not None else (lambda x: x >= least)
        worst = (max if most is not None else min)(values)
        misses = sorted(v for v in values if not good(v[0]))
        found.append(dict(bar=name, met=len(values) - len(misses), total=len(values),
                          worst=form.format(worst[0]) + " at " + worst[1].strip(),
                          misses=[f"{where} {form.format(x)}" for x, where in misses]))

    def ours(key):
        return lambda r: r["contenders"].get("kfa", {}).get(key)

    def over(label, other="kfa"):
        def value(r):
            times = [r["contenders"].get(name, {}).get("ms") for name in (label, other)]
            return times[1] / times[0] if all(times) else None
        return value

    mha = lambda r: r["shape"]["heads"] == r["shape"]["kv_heads"]
    kv = lambda r: r["shape"]["kv_len"]
    cold = lambda r: r["state"] == "cold"
    percent = "{:.0%}"
    bar("prefill d128, s >= 1024: 85% of the FMA peak", "prefill", ours("fraction"), 0.85,
        lambda r: r["shape"]["dim"] == 128 and kv(r) >= 1024, percent)
    bar("prefill d64, s >= 1024: 80% of the FMA peak", "prefill", ours("fraction"), 0.80,
        lambda r: r["shape"]["dim"] == 64 and kv(r) >= 1024, percent)
    bar("prefill: 1.3x the best peer", "prefill", lambda r: r.get("ratio"), 1.3)
    bar("decode kv >= 8192: 90% of the read bandwidth", "decode", ours("fraction"), 0.90,
        lambda r: cold(r) and kv(r) >= 8192, percent)
    bar("decode MHA kv >= 8192: 1.05x the best peer", "decode", lambda r: r.get("ratio"), 1.05,
        lambda r: cold(r) and kv(r) >= 8192 and mha(r))
    bar("decode GQA kv >= 8192: 2.5x the best peer", "decode", lambda r: r.get("ratio"), 2.5,
        lambda r: cold(r) and kv(r) >= 8192 and not mha(r))
    bar("(no bar) decode GQA kv >= 8192, against torch with heads folded into rows", "decode",
        lambda r: r.get("grouped_ratio"), 1.0, lambda r: cold(r) and kv(r) >= 8192)
    calls = {r["threads"]: {n: c["best_ms"] for n, c in r["contenders"].items() if "ms" in c} for r in rows if r["table"] == "call"}

    def net_ratio(r):
        """Against the best peer where each is spared its cost of a call over one key."""
        cost = calls.get(r["threads"], {})
        net = {n: c["ms"] - cost[n] for n, c in r["contenders"].items()
               if "ms" in c and n in cost and n != GROUPED and c["error"] < ACCURATE}
        ours_net = net.pop("kfa", None)
        net = [ms for ms in net.values() if ms > 0]
        return min(net) / ours_net if net and ours_net and ours_net > 0 else None

    for state in ("cold", "hot"):
        small = lambda r, state=state: r["state"] == state and kv(r) <= 2048
        bar(f"decode kv 128 to 2048, {state}: faster than the best peer", "decode", lambda r: r.get("ratio"), 1.0, small)
        bar(f"(no bar) the same, each less its call over one key, {state}", "decode", net_ratio, 1.0, small)
    for kind in ("f16", "bf16"):
        for label in (f"kfa f32+{kind}", f"kfa {kind}"):
            bar(f"decode kv 8192, {label[4:]}: 1.7x our f32", "decode16", over(label), 1.7, lambda r: kv(r) == 8192)
    bar("16-bit cache under f32 query: error at most 1e-5", "decode16",
        lambda r: max([c["error"] for n, c in r["contenders"].items() if n.startswith("kfa f32+") and "error" in c], default=None),
        None, form="{:.0e}", most=1e-5)
    bar("prefill: 2x our standard MHA", "standard", over("kfa", "kfa standard"), 2.0, lambda r: r["shape"]["q_len"] > 1)
    bar("prefill: memory of one call at most 1 MiB per thread", "memory",
        lambda r: r["memory"]["auto"].get("bytes", 1 << 60) / 1024 / r["threads"], None,
        lambda r: r["shape"]["q_len"] > 1, "{:.0f} KiB per thread", most=1024)
    bar("fork-join: 2 us beyond an even share", "latency", lambda r: r.get("overhead_us"), None,
        lambda r: kv(r) in (32, 64, 128), "{:.2f} us", most=2.0)
    bar("f32 error at most 1e-5", "prefill", ours("error"), None, form="{:.0e}", most=1e-5)
    bar("f32 error at most 1e-5 (decode)", "decode", ours("error"), None, form="{:.0e}", most=1e-5)
    return found


def show_verdicts(record):
    print("\nbars of the CPU (rows that meet it / rows):")
    for v in verdicts(record):
        word = "met   " if v["met"] == v["total"] else "MISSED"
        print(f"{word} {v['met']:2}/{v['total']:<2} {v['bar']}; worst {v['worst']}")
        if v["met"] != v["total"]:
            print(f"              missed: {', '.join(v['misses'])}")


COLOURS = {"kfa": "#c05621", "onnxruntime": "#2b6cb0", "torch": "#2f855a", "openvino": "#6b46c1", "ggml": "#718096",
           "candle": "#b7791f", GROUPED: "#9ae6b4"}


def plot(record, path):
    """Prefill as bars of GFLOP/s, decode as lines of GB/s, at the largest number of threads."""
    try:
        import matplotlib
    except ImportError:
        pip(PLOTTING)
        import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kuiper"  # the same record gives the same file
    import matplotlib.pyplot as plt

    threads = max(record["threads"])
    rows = [r for r in record["rows"] if r.get("threads") == threads]
    prefill = [r for r in rows if r["table"] == "prefill"]
    decode = [[r for r in rows if r["table"] == "decode" and r["state"] == "cold" and (r["shape"]["kv_heads"] == 32) == mha]
              for mha in (True, False)]
    figure = plt.figure(figsize=(9, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2)

    if prefill:
        axis = figure.add_subplot(grid[0, :])
        names = [n for n in COLOURS if any("rate" in r["contenders"].get(n, {}) for r in prefill)]
        width = 0.84 / len(names)
        for index, name in enumerate(names):
            points = [(i, r["contenders"][name]["rate"]) for i, r in enumerate(prefill) if "rate" in r["contenders"].get(name, {})]
            axis.bar([i + (index - (len(names) - 1) / 2) * width for i, _ in points], [y for _, y in points], width * 0.92,
                     color=COLOURS[name], label=name)
        peaks = [max(r["ceilings"].values()) for r in prefill]
        for i, peak in enumerate(peaks):
            axis.hlines(peak, i - 0.45, i + 0.45, color="grey", linewidth=1, label="FMA peak" if i == 0 else None)
        axis.set_xticks(range(len(prefill)), [r["name"].replace(" ", "\n") for r in prefill], fontsize=8)
        axis.set_ylabel("GFLOP/s")
        axis.set_ylim(top=max(peaks) * 1.22)
        axis.set_title("prefill, causal, fp32; heads/KV heads/head_dim and length", fontsize=10)
        axis.legend(frameon=False, fontsize=8, ncol=7, loc="upper left")
        axis.spines[["top", "right"]].set_visible(False)
    for column, lines in enumerate(decode):
        if not lines:
            continue
        axis = figure.add_subplot(grid[1, column])
        for name in reversed(COLOURS):
            points = [(r["shape"]["kv_len"], r["contenders"][name]["rate"]) for r in lines if "rate" in r["contenders"].get(name, {})]
            if points:
                axis.plot(*zip(*points), "o-", color=COLOURS[name], label=name, linewidth=2 if name == "kfa" else 1.2, markersize=4)
        axis.plot([r["shape"]["kv_len"] for r in lines], [r["ceilings"][record["pages"]] for r in lines], "--", color="grey",
                  linewidth=1, label="memory read")
        axis.set_xscale("log", base=2)
        axis.set_xticks([r["shape"]["kv_len"] for r in lines], [r["shape"]["kv_len"] for r in lines])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("keys")
        axis.set_ylabel("GB/s of cache")
        axis.set_title(f"decode, cold caches, fp32, {'32/32/128' if column == 0 else '32/8/128'}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        handles = dict(zip(*reversed(axis.get_legend_handles_labels())))  # those that prefill's legend lacks
        extra = {n: h for n, h in handles.items() if n in ("memory read", GROUPED) or not prefill}
        axis.legend(extra.values(), extra.keys(), frameon=False, fontsize=8)
    figure.suptitle(f"{record['processor']}, {threads} threads, {record['date'][:10]}", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def main():
    arguments = parser.parse_args()
    if arguments.record:
        record = json.loads(Path(arguments.record).read_text())
        show_verdicts(record)
    else:
        bench = Bench(arguments)
        bench.run()
        record = bench.record
        record["verdicts"] = verdicts(record)
        show_verdicts(record)
        print(f"{len(record['rows'])} rows in {record['seconds']:.0f} s")
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(record, indent=1) + "\n")
    if arguments.plot:
        plot(record, arguments.plot)


if __name__ == "__main__":
    into_venv()
    try:
        import numpy
    except ImportError:
        pip(NUMPY)
    main()
