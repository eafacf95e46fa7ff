#!/usr/bin/env python3
"""Times our CUDA kernels against PyTorch's, on one GPU, in one process.

    bench_gpu.py [--only decode,prefill] [--dtypes f16,f32] [--quick] [--json OUT] [--plot OUT.svg]
    bench_gpu.py --peers FOLDER [--only peers]
    bench_gpu.py --from RECORD.json --plot OUT.svg

Every number is the median over replays of a CUDA graph that holds half a millisecond of calls, over
rotated buffers larger than L2, contenders taking turns; so neither host cost nor a graph's start is
in it. Fractions are of the ceilings measured in the same run; decode is also raced against a plain
read of the same keys and values. Peers: PyTorch's scaled_dot_product_attention by cuDNN,
FlashAttention-2, its memory-efficient and its math kernel, each where it serves the shape.
With --peers, FOLDER's peers.py races the library against the strongest Hopper kernels on top, in a process
of its own; its record becomes part of ours.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

arguments = argparse.ArgumentParser()
arguments.add_argument("--only", default="", help="tables: ceilings, decode, prefill, prefill32, engine")
arguments.add_argument("--dtypes", default="f16,bf16,f32")
arguments.add_argument("--quick", action="store_true", help="fewer shapes and replays")
arguments.add_argument("--json")
arguments.add_argument("--plot")
arguments.add_argument("--from", dest="record")
arguments.add_argument("--peers", help="folder of peers.py")
arguments = arguments.parse_args()


def plot(record, path):
    """Rates of one record, ours against PyTorch's: bf16 decodes as fp16 does, and the other way round."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kuiper"  # the same record gives the same file
    import matplotlib.pyplot as plt

    best = {"best of PyTorch": ("--", lambda peers: min(peers.values()))}
    panels = [("decode", "f16", "decode, fp16: GB/s of keys and values", {"cuDNN": ("--", lambda peers: peers.get("cudnn"))}),
              ("decode", "f32", "decode, fp32: GB/s of keys and values", best),
              ("prefill", "bf16", "prefill, bf16: TFLOP/s", {"FlashAttention-2": ("--", lambda peers: peers.get("fa2")),
                                                             "cuDNN": (":", lambda peers: peers.get("cudnn"))}),
              ("prefill32", "f32", "prefill, fp32: TFLOP/s", best)]
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    for axis, (table, dtype, title, peers) in zip(axes.flat, panels):
        rows = [r for r in record["rows"] if r["table"] == table and r["series"].split()[0] == dtype]
        for index, series in enumerate(dict.fromkeys(r["series"] for r in rows)):
            line = [r for r in rows if r["series"] == series]
            axis.plot([r["x"] for r in line], [r["rate"] for r in line], "o-", ms=4, color=f"C{index}",
                      label=series.removeprefix(dtype + " "))
            for style, peer in peers.values():
                theirs = [(r["x"], r["rate"] * r["us"] / peer(r["peers"])) for r in line if peer(r["peers"])]
                axis.plot(*zip(*theirs), style, color=f"C{index}", alpha=0.6)
        for name, (style, _) in peers.items():
            axis.plot([], [], style, color="grey", label=name)
        if table == "decode":
            axis.axhline(record["ceilings"]["read_gbs"], color="grey", linewidth=0.8, label="read of 2 GiB")
        axis.set_xscale("log", base=2)
        axis.minorticks_off()
        axis.set_xticks(sorted({r["x"] for r in rows}), sorted({r["x"] for r in rows}))
        axis.set_ylim(bottom=0)
        axis.set_xlabel("keys")
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7)
    figure.suptitle(f"{record['device']}, {record['date']}: solid is ours", fontsize=11)
    figure.savefig(path, metadata={"Date": None})


if arguments.record:
    plot(json.load(open(arguments.record)), arguments.plot)
    sys.exit()

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import kfa

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
PEERS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "fa2": SDPBackend.FLASH_ATTENTION,
         "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
REPLAYS = 7 if arguments.quick else 15
L2 = torch.cuda.get_device_properties(0).L2_cache_size
ROWS = []
CEILINGS = {}


def wants(table):
    return not arguments.only or table in arguments.only.split(",")


def capture(calls):
    """One CUDA graph of the calls; None with the reason where a contender refuses the shape."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            calls[0]()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        graph.replay()
        torch.cuda.synchronize()
        return graph
    except (RuntimeError, kfa.Error) as error:
        if "CUDA error" in str(error):
            raise
        return None


def race(contenders):
    """Median microseconds per call of each contender, {name: list of calls}, taking turns."""
    graphs = {name: (capture(calls), len(calls)) for name, calls in contenders.items()}
    times = {name: [] for name, (graph, _) in graphs.items() if graph}
    for _ in range(REPLAYS):
        for name in times:
            graph, calls = graphs[name]
            begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) * 1000 / calls)
    return {name: statistics.median(t) for name, t in times.items()}


try:
    import triton
    import triton.language as tl
except ImportError:  # then PyTorch's sum is the fastest read there is
    triton = None
else:
    @triton.jit
    def read_block(x, sums, size: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
        tl.store(sums + tl.program_id(0), tl.sum(tl.load(x + at)))


def read(x, sums):
    """Reads a float32 tensor as fast as memory gives it."""
    if triton is None:
        x.sum()
    else:
        read_block[(x.numel() // 8192,)](x, sums, size=8192, num_warps=8)


def ceilings():
    big = torch.empty(1 << 29, device="cuda").normal_()  # 2 GiB
    sums = torch.empty(big.numel() // 8192, device="cuda")
    to = torch.empty_like(big)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    x, y = (torch.randn(8192, 8192, device="cuda") for _ in range(2))

    def tf32():
        torch.backends.cuda.matmul.allow_tf32 = True
        x @ y
        torch.backends.cuda.matmul.allow_tf32 = False

    us = race({"read": [lambda: read(big, sums)], "copy": [lambda: to.copy_(big)], "bf16": [lambda: a @ b],
               "tf32": [tf32], "sgemm": [lambda: x @ y]})
    size, flops = big.numel() * 4, 2 * 8192**3
    CEILINGS.update(read_gbs=size / us["read"] / 1e3, copy_gbs=2 * size / us["copy"] / 1e3,
                    bf16_tflops=flops / us["bf16"] / 1e6, tf32_tflops=flops / us["tf32"] / 1e6,
                    sgemm_tflops=flops / us["sgemm"] / 1e6)
    print("ceilings: " + ", ".join(f"{k} {v:.0f}" for k, v in CEILINGS.items()))


def contend(b, q_len, kv_len, heads, kv_heads, dim, dtype, causal, peers, standard=True, calls=None):
    """Times one shape; returns ({name: us}, our kernel's name)."""
    buffer_bytes = 2 * b * kv_len * kv_heads * dim * dtype.itemsize
    copies = max(2, min(512, -(-3 * L2 // buffer_bytes)))
    calls = calls or max(copies, min(200, round(500 / (3 + buffer_bytes / 3e6))))
    make = lambda *shape: torch.randn(*shape, device="cuda").to(dtype)
    q = make(b, q_len, heads, dim)
    out = torch.empty_like(q)
    kv = [make(2, b, kv_len, kv_heads, dim) for _ in range(copies)]
    keep = []

    def ours(mode):
        def call(k, v):
            d = kfa.desc(q, k, v, out, causal=causal, mode=mode)
            if not any(m is mode for m, _ in keep):
                keep.append((mode, kfa.give_workspace(d)))
            w = next(w for m, w in keep if m is mode)
            d.workspace, d.workspace_size = (w.data_ptr(), w.numel()) if w is not None else (None, 0)
            kfa.forward(d)
        return [lambda kv=kv[i % copies]: call(*kv) for i in range(calls)]

    def peer(backend):
        def call(k, v):
            with sdpa_kernel(backend):
                F.scaled_dot_product_attention(
                    q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal and q_len > 1,
                    enable_gqa=heads != kv_heads)
        return [lambda kv=kv[i % copies]: call(*kv) for i in range(calls)]

    contenders = {"kfa": ours(kfa.AUTO)}
    for name in peers:
        contenders[name] = peer(PEERS[name])
    if standard:
        contenders["standard"] = ours(kfa.STANDARD)
    if q_len == 1:
        sums = torch.empty(buffer_bytes // 4, device="cuda")
        contenders["read"] = [lambda x=kv[i % copies].view(torch.float32).view(-1): read(x, sums) for i in range(calls)]
    us = race(contenders)
    # What was timed is right: against PyTorch's own, in float32, on the first buffer.
    k, v = kv[0]
    out.fill_(float("nan"))
    contenders["kfa"][0]()
    torch.cuda.synchronize()
    kernel = kfa.last_kernel()
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        sample = slice(0, 1)
        repeat = heads // kv_heads
        spread = lambda t: t[sample].float().transpose(1, 2).repeat_interleave(repeat, 1)
        want = F.scaled_dot_product_attention(q[sample].float().transpose(1, 2), spread(k), spread(v),
                                              is_causal=causal and q_len > 1).transpose(1, 2)
    error = (out[sample].float() - want).norm() / want.norm()
    assert error < {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}[dtype], f"{kernel} is wrong: {error:.2e}"
    return us, kernel


def show(table, series, x, us, kernel, rate, unit, ceiling):
    ours = us.pop("kfa")
    standard, reading = us.pop("standard", None), us.pop("read", None)
    ROWS.append(dict(table=table, series=series, x=x, us=ours, rate=rate(ours), unit=unit, kernel=kernel,
                     fraction=rate(ours) / ceiling if ceiling else None, peers=us, standard_us=standard, read_us=reading))
    peers = "  ".join(f"{n} {t:8.1f} ({t / ours:4.2f}x)" for n, t in us.items())
    against = f"  std {standard:9.1f} ({standard / ours:5.1f}x)" if standard else ""
    share = f"{rate(ours) / ceiling:4.0%}" if ceiling else ""
    share += f" ({reading / ours:3.0%} of a read)" if reading else ""
    print(f"{series:26} {x:6} {ours:9.2f} us {rate(ours):7.1f} {unit} {share:4}  {peers}{against}  {kernel}", flush=True)


def decode():
    shapes = [(1, 32, 8, 128), (1, 32, 32, 128), (32, 32, 8, 128), (1, 8, 8, 64)]
    for dtype in arguments.dtypes.split(","):
        for b, heads, kv_heads, dim in shapes:
            for kv_len in (128, 2048, 8192) if arguments.quick else (128, 512, 2048, 8192, 32768):
                if b == 32 and kv_len > 8192:
                    continue
                t = DTYPES[dtype]
                peers = ["efficient", "math"] if dtype == "f32" else ["cudnn", "fa2"]
                us, kernel = contend(b, 1, kv_len, heads, kv_heads, dim, t, True, peers, standard=b * kv_len <= 65536)
                size = 2 * b * kv_len * kv_heads * dim * t.itemsize
                show("decode", f"{dtype} b{b} {heads}/{kv_heads}/{dim}", kv_len, us, kernel,
                     lambda us: size / us / 1e3, "GB/s", CEILINGS.get("read_gbs"))


def prefill():
    for dtype in arguments.dtypes.split(","):
        if dtype == "f32":
            continue
        for dim in (64, 128, 256):
            for causal in (False, True):
                for s in (512, 2048, 8192) if arguments.quick else (512, 1024, 2048, 4096, 8192, 16384):
                    b, heads = 16384 // s, 2048 // dim
                    us, kernel = contend(b, s, s, heads, heads, dim, DTYPES[dtype], causal, ["cudnn", "fa2"],
                                         standard=False, calls=4)
                    flops = 4 * b * heads * s * s * dim / (2 if causal else 1)
                    show("prefill", f"{dtype} d{dim}{' causal' if causal else ''}", s, us, kernel,
                         lambda us: flops / us / 1e6, "TF/s", CEILINGS.get("bf16_tflops"))


def prefill32():
    if "f32" not in arguments.dtypes.split(","):
        return
    for s in (512, 2048, 8192) if arguments.quick else (512, 1024, 2048, 4096, 8192):
        us, kernel = contend(1, s, s, 32, 32, 128, torch.float32, True, ["efficient", "math"] if s <= 4096 else ["efficient"],
                             standard=s <= 2048, calls=2)
        flops = 4 * 32 * s * s * 128 / 2
        show("prefill32", "f32 d128 causal", s, us, kernel, lambda us: flops / us / 1e6, "TF/s", CEILINGS.get("tf32_tflops"))


def engine():
    """Standard MHA against DESIGN's measurement of the engine's own, fp32, ms."""
    for (heads, kv_heads, dim), theirs in {(32, 32, 128): (0.040, 0.079, 0.270, 0.533, 1.058),
                                           (32, 8, 128): (0.041, 0.074, 0.141, 0.466, 1.110),
                                           (32, 4, 64): (0.037, 0.064, 0.122, 0.237, 0.465)}.items():
        for kv_len, ms in zip((512, 1024, 2048, 4096, 8192), theirs):
            us, kernel = contend(1, 1, kv_len, heads, kv_heads, dim, torch.float32, True, [])
            us["engine_mha_published"] = ms * 1000
            size = 2 * kv_len * kv_heads * dim * 4
            show("engine", f"f32 {heads}/{kv_heads}/{dim}", kv_len, us, kernel, lambda us: size / us / 1e3, "GB/s",
                 CEILINGS.get("read_gbs"))


warnings.filterwarnings("ignore", module="torch|__main__")  # why a peer does not serve a shape
torch.manual_seed(0)
begin = time.time()
print(kfa.lib.kfa_build_info().decode(), "|", torch.cuda.get_device_name(), "| torch", torch.__version__)
ceilings()
for table in (decode, prefill, prefill32, engine):
    if wants(table.__name__):
        table()
peers = None
if arguments.peers:
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "peers.json"
        subprocess.run([sys.executable, Path(arguments.peers) / "peers.py", "--kfa", Path(__file__).parent, "--json", written,
                        "--only", "prefill,gqa,window,softcap"], check=True)
        peers = json.loads(written.read_text())
record = dict(device=torch.cuda.get_device_name(), date=time.strftime("%Y-%m-%d"), torch=torch.__version__,
              cudnn=torch.backends.cudnn.version(), library=kfa.lib.kfa_build_info().decode(), ceilings=CEILINGS, rows=ROWS,
              strongest_peers=peers)
if arguments.json:
    json.dump(record, open(arguments.json, "w"), indent=1)
if arguments.plot:
    plot(record, arguments.plot)
slower = [r for r in ROWS if r["peers"] and r["table"] != "engine" and min(r["peers"].values()) < r["us"]]
print(f"\n{len(ROWS)} rows in {time.time() - begin:.0f} s; a peer was faster in {len(slower)}:")
for r in slower:
    name, us = min(r["peers"].items(), key=lambda item: item[1])
    print(f"  {r['table']} {r['series']} {r['x']}: {r['us']:.1f} us, {name} {us:.1f} ({us / r['us']:.2f}x)")
