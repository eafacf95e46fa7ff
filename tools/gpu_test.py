#!/usr/bin/env python3
"""Tests the CUDA backend through the C API against a float64 oracle.

    gpu_test.py [--only decode,graph] [--arch 80] [--kernels cuda.flash_prefill_plain] [--list] [--verbose]

Needs a GPU, PyTorch and the built library (KFA_LIB, or beside this file, or target/release).
--only runs the tests whose name contains one of the words; --arch lowers KFA_CUDA_ARCH and --kernels
sets KFA_CUDA_KERNELS, so that the kernels of an older architecture, or the named ones, are forced. Prints a short table last; exits 1 on a failure.
"""

import argparse
import collections
import ctypes as c
import itertools
import math
import os
import subprocess
import sys
import threading
import time
import traceback

arguments = argparse.ArgumentParser()
arguments.add_argument("--only", default="")
arguments.add_argument("--arch", default="")
arguments.add_argument("--kernels", default="")
arguments.add_argument("--list", action="store_true")
arguments.add_argument("--verbose", action="store_true")
arguments.add_argument("--inner", default="", help="for the script itself: what a fresh process does")
arguments = arguments.parse_args()
if arguments.arch:
    os.environ["KFA_CUDA_ARCH"] = arguments.arch
if arguments.kernels:
    os.environ["KFA_CUDA_KERNELS"] = arguments.kernels

import torch

import kfa

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
NAME = {F32: "f32", F16: "f16", BF16: "bf16"}
# Largest absolute error at unit-normal inputs. 16-bit: rounding of the output and of the weights.
BOUND = {F32: 1e-5, F16: 2e-3, BF16: 1.6e-2}
TESTS = []


def test(group, *cases, **options):
    """Registers a function under `group/case` for each case (label, arguments...)."""
    def register(function):
        for case in cases or [("",)]:
            label = "/".join(filter(None, [group, case[0]]))
            TESTS.append((label, lambda case=case: function(*case[1:], **options)))
        return function
    return register


class Skip(Exception):
    pass


# ---- the oracle --------------------------------------------------------------------------------

def oracle(q, k, v, causal=True, scale=0.0):
    """Float64 output and LSE; every key of k is valid, the newest row sees all."""
    batch, rows, heads, dim = q.shape
    keys = k.shape[1]
    group = heads // k.shape[2]
    scale = scale or 1 / math.sqrt(dim)
    out = torch.empty(q.shape, dtype=torch.float64, device=q.device)
    lse = torch.empty(batch, heads, rows, dtype=torch.float64, device=q.device)
    hidden = None
    if causal:
        last = torch.arange(rows, device=q.device)[:, None] + keys - rows
        hidden = torch.arange(keys, device=q.device)[None, :] > last
    for b, h in itertools.product(range(batch), range(k.shape[2])):
        heads_of = slice(h * group, (h + 1) * group)
        s = torch.einsum("rgd,kd->grk", q[b, :, heads_of].double(), k[b, :, h].double()) * scale
        if causal:
            s.masked_fill_(hidden, -math.inf)
        l = torch.logsumexp(s, -1)
        weights = torch.where(l.isinf()[..., None], torch.zeros_like(s), torch.exp(s - l[..., None]))
        out[b, :, heads_of] = torch.einsum("grk,kd->rgd", weights, v[b, :, h].double())
        lse[b, heads_of] = l
    return out, lse


def compare(got, want, bound, what):
    got = got.double()
    assert not got.isnan().any(), f"{what}: NaN in {int(got.isnan().sum())} of {got.numel()} elements"
    same = (got == want) | ((got - want).abs() <= bound)
    if not same.all():
        error = (got - want).abs()
        where = torch.nonzero(~same)[0].tolist()
        raise AssertionError(
            f"{what}: {int((~same).sum())} of {same.numel()} elements off, largest error "
            f"{float(error[~error.isnan()].max()):.3g} > {bound:g}, first at {where}: "
            f"{float(got[tuple(where)]):.6g}, expected {float(want[tuple(where)]):.6g}"
        )


# ---- one problem, thoroughly -------------------------------------------------------------------

def place(shape, dtype, layout, fill, seed=None):
    """A view of `shape` in memory of its own with `fill` all around; returns (view, memory)."""
    b, n, h, d = shape
    extra = 64
    if layout == "packed":
        strides, offset = (n * h * d, h * d, d), extra
    elif layout == "misaligned":  # one element off every vector boundary
        strides, offset = (n * h * d, h * d, d), extra + 1
    elif layout == "odd":  # rows and heads fall on odd elements
        strides, offset = (n * (h * (d + 1) + 1), h * (d + 1) + 1, d + 1), extra + 1
    elif layout == "headmajor":  # [batch, heads, rows, head_dim]
        strides, offset = (h * n * d, d, n * d), extra
    elif layout == "fused":  # rows of a wider buffer, as in one query-key-value projection
        strides, offset = (n * 3 * h * d, 3 * h * d, d), extra + h * d // 8 * 8
    size = offset + sum((s - 1) * t for s, t in zip((b, n, h), strides)) + d + extra
    memory = torch.full((size,), fill, dtype=dtype, device="cuda")
    view = memory.as_strided(shape, (*strides, 1), offset)
    if seed is not None:
        generator = torch.Generator("cuda").manual_seed(seed)
        view.copy_(torch.randn(shape, generator=generator, device="cuda"))
    return view, memory


KERNELS = collections.Counter()
WORST = {}


def problem(b, q_len, kv_len, heads, kv_heads, dim, dtype=F16, kv_dtype=None, causal=True, mode=kfa.AUTO,
            layout="packed", lse=True, pos=False, inplace=False, scale=0.0, spare=7, flash=False):
    """Runs one problem with everything around it poisoned, twice, and compares."""
    kv_dtype = kv_dtype or dtype
    q, q_memory = place((b, q_len, heads, dim), dtype, layout, math.nan, 1)
    original = q.clone()
    k, k_memory = place((b, kv_len + spare, kv_heads, dim), kv_dtype, layout, math.nan, 2)
    v, v_memory = place((b, kv_len + spare, kv_heads, dim), kv_dtype, layout, math.nan, 3)
    k[:, kv_len:], v[:, kv_len:] = math.nan, math.nan
    out, out_memory = (q, q_memory) if inplace else place(q.shape, dtype, layout, math.nan)
    l = torch.full((b, heads, q_len), math.nan, device="cuda") if lse else None
    position = torch.tensor([kv_len - 1], dtype=torch.int32, device="cuda") if pos else None
    capacity = kv_len + spare if pos else kv_len
    d = kfa.desc(q, k, v, out, kv_len=capacity, causal=causal, mode=mode, lse=l, pos=position, scale=scale)
    explained = kfa.explain(d).splitlines()[0]
    if explained.startswith("none") or flash and "flash" not in explained:
        reasons = [line.removeprefix("passed over ") for line in kfa.explain(d).splitlines()[1:]]
        raise Skip("; ".join(r for r in reasons if flash or "standard" in r) or "no flash entry")
    guard = 256
    memory = torch.full((kfa.workspace_size(d) + guard,), 255, dtype=torch.uint8, device="cuda")
    used = memory.numel() - guard
    d.workspace, d.workspace_size = (memory.data_ptr() if used else None), used
    kfa.forward(d)
    kernel = kfa.last_kernel()
    assert kernel == explained, f"explain said {explained}, {kernel} ran"
    first = out.clone()
    first_lse = l.clone() if lse else None
    want, want_lse = oracle(original, k[:, :kv_len], v[:, :kv_len], causal, scale)
    what = f"{kernel} b{b} q{q_len} kv{kv_len} {heads}/{kv_heads}/{dim} {NAME[dtype]}/{NAME[kv_dtype]}"
    compare(first, want, BOUND[dtype], what)
    if lse:
        compare(first_lse, want_lse, 1e-5 * max(1, math.log(kv_len)) if dtype == F32 else 2e-3 if dtype == F16 else 1.6e-2, what + " lse")
    # A second run over a workspace full of the first run's leftovers gives the same bits.
    if inplace:
        q.copy_(original)
    kfa.forward(d)
    torch.cuda.synchronize()
    assert torch.equal(out, first), what + ": a second run differs"
    if lse:
        assert torch.equal(l, first_lse), what + ": a second run's LSE differs"
    assert (memory[used:] == 255).all(), what + ": wrote past the workspace"
    if not inplace:
        assert torch.equal(q, original), what + ": wrote to the query"
        out.fill_(math.nan)
        assert out_memory.isnan().all(), what + ": wrote outside the output"
    key = (kernel, NAME[dtype])
    KERNELS[key] += 1
    WORST[key] = max(WORST.get(key, 0.0), float((first.double() - want).abs().max()))


def matrix(group, rows, **options):
    for row in rows:
        options_of = dict(options)
        if isinstance(row[-1], dict):
            options_of.update(row[-1])
            row = row[:-1]
        b, q_len, kv_len, heads, kv_heads, dim, dtype = row[:7]
        kv = row[7] if len(row) > 7 else None
        extras = " ".join(f"{k}={NAME.get(v, v)}" for k, v in options_of.items() if k not in ("mode", "flash"))
        label = f"b{b} q{q_len} kv{kv_len} {heads}/{kv_heads}/{dim} {NAME[dtype]}{'/' + NAME[kv] if kv else ''} {extras}".strip()
        TESTS.append((f"{group}/{label}", lambda a=(b, q_len, kv_len, heads, kv_heads, dim), t=dtype, kv=kv, o=options_of: problem(*a, dtype=t, kv_dtype=kv, **o)))


SHAPES = [(1, 1, 1, 1), (2, 4, 2, 64), (1, 8, 8, 80), (1, 32, 8, 128), (2, 7, 7, 96), (1, 4, 4, 256), (1, 12, 2, 64)]
ODD_DIMS = [1, 3, 8, 17, 40, 72, 100, 120, 160, 192, 320, 512]

# Standard MHA: everything.
matrix("standard", [(b, q, n, h, kv, d, t) for (b, h, kv, d) in SHAPES for t in (F32, F16, BF16)
                    for q, n in ((1, 1), (1, 300), (5, 77), (64, 64))], mode=kfa.STANDARD)
matrix("standard", [(1, 3, 50, 4, 2, d, t) for d in ODD_DIMS for t in (F32, F16)], mode=kfa.STANDARD)
matrix("standard", [(1, 2, 90, 8, 2, 64, F32, kv) for kv in (F16, BF16)], mode=kfa.STANDARD)
matrix("standard", [(2, 5, 77, 8, 2, 64, t, dict(layout=l)) for t in (F32, F16, BF16)
                    for l in ("misaligned", "odd", "headmajor", "fused")], mode=kfa.STANDARD)
matrix("standard", [(2, 5, 77, 8, 2, 64, F32, o) for o in (dict(causal=False), dict(lse=False), dict(pos=True), dict(inplace=True), dict(scale=0.5), dict(causal=False, pos=True))], mode=kfa.STANDARD)

# Flash decode: q_len 1 to 16.  (The label of a case is what --only looks in.)
LENGTHS = (1, 2, 31, 33, 127, 128, 129, 1000, 4097)
matrix("decode", [(1, 1, n, 32, 8, 128, t) for n in LENGTHS for t in (F32, F16, BF16)], flash=True)
matrix("decode", [(b, 1, n, h, kv, d, t) for (b, h, kv, d) in SHAPES for t in (F32, F16, BF16) for n in (5, 640)], flash=True)
matrix("decode", [(1, 1, n, 32, 32, 128, t) for n in (16384,) for t in (F32, F16, BF16)], flash=True)
matrix("decode", [(1, 1, n, 8, 8, 64, t) for n in (40000,) for t in (F32, F16, BF16)], flash=True)
matrix("decode", [(32, 1, 513, 32, 8, 128, t) for t in (F32, F16, BF16)], flash=True)
matrix("decode", [(1, 1, 700, 4, 2, d, t) for d in ODD_DIMS for t in (F32, F16)], flash=True)
matrix("decode", [(1, q, n, 8, 2, d, t) for q in (2, 3, 8, 16) for n in (16, 1500) for d in (64, 128) for t in (F32, F16, BF16)], flash=True)
matrix("decode", [(1, 1, 900, h, kv, 128, t) for h, kv in ((1, 1), (2, 1), (3, 1), (5, 1), (16, 1), (24, 2), (71, 1), (64, 4)) for t in (F32, F16)], flash=True)
matrix("decode", [(1, 1, 600, 8, 2, d, F32, kv) for d in (64, 96, 128) for kv in (F16, BF16)], flash=True)
matrix("decode", [(2, 1, 777, 8, 2, d, t, dict(layout=l)) for d in (64, 128) for t in (F32, F16, BF16)
                  for l in ("misaligned", "odd", "headmajor", "fused")], flash=True)
matrix("decode", [(2, q, 777, 8, 2, 128, t, o) for q in (1, 4) for t in (F32, F16) for o in
                  (dict(causal=False), dict(lse=False), dict(pos=True), dict(pos=True, spare=3000), dict(inplace=True), dict(scale=0.5))], flash=True)
matrix("decode", [(1, 8, 3, 8, 2, 64, t) for t in (F32, F16)], flash=True)  # rows that see no key

# Flash prefill.
matrix("prefill", [(1, n, n, 8, 2, d, t) for d in (64, 96, 128, 256) for n in (17, 64, 129, 1000) for t in (F32, F16, BF16)], flash=True)
matrix("prefill", [(2, q, n, 4, 4, d, t) for d in (64, 128) for q, n in ((100, 100), (33, 500), (256, 1025), (64, 63)) for t in (F32, F16, BF16)], flash=True)
matrix("prefill", [(1, 200, 333, 4, 2, d, t) for d in ODD_DIMS for t in (F32, F16)], flash=True)
matrix("prefill", [(1, 300, 300, 4, 2, d, t, dict(causal=False)) for d in (64, 96, 128, 256) for t in (F32, F16, BF16)], flash=True)
matrix("prefill", [(1, 2048, 4096, 4, 1, 128, t) for t in (F32, F16, BF16)], flash=True)
matrix("prefill", [(2, 150, 277, 8, 2, d, t, dict(layout=l)) for d in (64, 128) for t in (F32, F16, BF16)
                   for l in ("misaligned", "odd", "headmajor", "fused")], flash=True)
matrix("prefill", [(2, 150, 277, 8, 2, 128, t, o) for t in (F32, F16) for o in
                   (dict(causal=False), dict(lse=False), dict(pos=True), dict(pos=True, spare=300), dict(inplace=True), dict(scale=0.5))], flash=True)
matrix("prefill", [(2, q, 450, h, kv, d, t) for q in (33, 200) for h, kv in ((6, 2), (12, 1), (64, 1), (5, 1)) for d in (64, 128, 256)
                   for t in (F16, BF16)], flash=True)  # groups that share tiles whole, in part, not at all
matrix("prefill", [(1, 90, 40, 4, 2, 64, t) for t in (F32, F16)], flash=True)  # rows that see no key
matrix("prefill", [(1, 70, 130, 8, 2, 64, F32, kv) for kv in (F16, BF16)], flash=True)


# ---- numbers that are not finite ---------------------------------------------------------------

def oracle_of_nonfinite(q, k, v, causal):
    """As the oracle; a value reaches the rows that see it, and an infinite score spoils its row."""
    batch, rows, heads, dim = q.shape
    keys, group = k.shape[1], heads // k.shape[2]
    last = torch.arange(rows, device="cuda")[:, None] + keys - rows
    seen = torch.arange(keys, device="cuda")[None, :] <= (last if causal else keys)
    out = torch.empty(q.shape, dtype=torch.float64, device="cuda")
    lse = torch.empty(batch, heads, rows, dtype=torch.float64, device="cuda")
    for b, h in itertools.product(range(batch), range(heads)):
        s = q[b, :, h].double() @ k[b, :, h // group].double().T / math.sqrt(dim)
        s = torch.where(seen, s, -math.inf)
        l = torch.logsumexp(s, -1)
        l = torch.where(s.isnan().any(-1) | (s == math.inf).any(-1), math.nan, l)
        weights = torch.where((l == -math.inf)[:, None], 0.0, torch.exp(s - l[:, None]))
        x = v[b, :, h // group].double()
        out[b, :, h] = weights @ torch.where(x.isfinite(), x, 0.0)
        for kind, value in ((x.isnan(), math.nan), (x == math.inf, math.inf), (x == -math.inf, -math.inf)):
            reached = (seen.double() @ kind.double()) > 0
            out[b, :, h] = torch.where(reached, out[b, :, h] + value, out[b, :, h])
        lse[b, h] = l
    return out, lse


def compare_nonfinite(got, want, bound, what):
    got = got.double()
    same = (got == want) | ((got - want).abs() <= bound) | got.isnan() & want.isnan()
    if not same.all():
        where = tuple(torch.nonzero(~same)[0].tolist())
        raise AssertionError(f"{what}: {int((~same).sum())} of {same.numel()} elements off, first at {list(where)}: "
                             f"{float(got[where]):.6g}, expected {float(want[where]):.6g}")


def nonfinite(what, q_len, kv_len, dim, dtype, mode=kfa.AUTO, causal=True, kv_dtype=None):
    q, k, v = inputs(1, q_len, kv_len, 4, 2, dim, dtype, seed=q_len)
    k, v = (t.to(kv_dtype or dtype) for t in (k, v))
    generator = torch.Generator("cuda").manual_seed(9)
    some = lambda t, share: torch.rand(t.shape, generator=generator, device="cuda") < share
    middle = max(kv_len - 1 - q_len // 2, 0)
    if what == "a value":
        for head, key, x in ((0, 0, math.nan), (0, middle, math.inf), (1, kv_len - 1, -math.inf), (1, middle, math.nan)):
            v[0, key, head, key % dim] = x
    elif what == "values":
        v[some(v, 0.01)] = math.nan
        v[some(v, 0.01)] = math.inf
        v[some(v, 0.01)] = -math.inf
    elif what == "all values":
        v.fill_(math.nan)
    elif what == "a key":
        k[0, middle, 0, 3], k[0, kv_len - 1, 1, 1] = math.nan, math.nan
    elif what == "infinite keys":
        k[0, middle, 0, 3], k[0, kv_len - 2, 1, 1], k[0, 0, 1, 2] = math.inf, -math.inf, math.inf
    elif what == "a query":
        q[0, q_len // 2, 1, 0] = math.nan
    elif what == "no score":  # all visible ones are -infinity
        q.abs_()
        k[..., 0] = -math.inf
    out = torch.full_like(q, 7.0)
    lse = torch.full((1, 4, q_len), 7.0, device="cuda")
    d = kfa.desc(q, k, v, out, lse=lse, mode=mode, causal=causal)
    w = kfa.give_workspace(d)
    kfa.forward(d)
    want, want_lse = oracle_of_nonfinite(q, k, v, causal)
    name = f"{kfa.last_kernel()} {what}"
    compare_nonfinite(out, want, BOUND[dtype], name)
    compare_nonfinite(lse, want_lse, 1e-4 if dtype == F32 else 1.6e-2, name + " lse")


KINDS = ("a value", "values", "all values", "a key", "infinite keys", "a query", "no score")
for kind in KINDS:
    for dtype in (F32, F16, BF16):
        for q_len, kv_len, dim in ((1, 300, 64), (7, 100, 128), (200, 200, 64), (150, 333, 128), (130, 130, 96), (70, 200, 256), (300, 300, 40)):
            for causal in (True, False):
                label = f"nonfinite/{kind} q{q_len} kv{kv_len} d{dim} {NAME[dtype]}{'' if causal else ' whole'}"
                TESTS.append((label, lambda a=(kind, q_len, kv_len, dim, dtype), c=causal: nonfinite(*a, causal=c)))
        TESTS.append((f"nonfinite/{kind} {NAME[dtype]} standard",
                      lambda a=(kind, 9, 77, 64, dtype): nonfinite(*a, mode=kfa.STANDARD)))
        TESTS.append((f"nonfinite/{kind} {NAME[dtype]} d320", lambda a=(kind, 40, 77, 320, dtype): nonfinite(*a)))


@test("nonfinite/values beyond the range of halves")
def out_of_range():
    q, k, v = inputs(1, 150, 200, 4, 2, 64)
    v[0, 120, 0] *= 2.0**80
    out = kfa.attention(q, k, v)
    want = oracle(q, k, v)[0]
    compare(out / 2.0**80, want / 2.0**80, 1e-5, "large values")
    compare(out[:, :60], want[:, :60], 1e-5, "rows that do not see them")


@test("nonfinite/merge")
def merge_of_nonfinite():
    outs = [torch.randn(1, 5, 2, 8, device="cuda") for _ in range(3)]
    lses = [torch.randn(1, 2, 5, device="cuda") for _ in range(3)]
    lses[1][0, 0, 0], lses[1][0, 0, 1], lses[0][0, 1, 0] = math.nan, math.inf, -math.inf
    for part in lses:
        part[0, 1, 1], part[0, 1, 2] = -math.inf, math.nan
    out, lse = torch.full_like(outs[0], 7.0), torch.full_like(lses[0], 7.0)
    m = kfa.MergeDesc(c.sizeof(kfa.MergeDesc), kfa.CUDA, 3, 1, 5, 2, 8, 0)
    m.outputs = (c.c_void_p * 3)(*(t.data_ptr() for t in outs))
    m.lses = (c.c_void_p * 3)(*(t.data_ptr() for t in lses))
    m.output, m.lse, m.stream = out.data_ptr(), lse.data_ptr(), torch.cuda.current_stream().cuda_stream
    kfa.check(kfa.lib.kfa_attention_merge(c.byref(m)))
    all_lses = torch.stack(lses).double()
    l = torch.where((all_lses.isnan() | (all_lses == math.inf)).any(0), math.nan, torch.logsumexp(all_lses, 0))
    weights = torch.where(l == -math.inf, 0.0, torch.exp(all_lses - l)).permute(0, 1, 3, 2)[..., None]
    compare_nonfinite(out, (weights * torch.stack(outs).double()).sum(0), 1e-5, "merged")
    compare_nonfinite(lse, l, 1e-5, "merged lse")


@test("api/pos out of range", ("decode", 1, F16), ("decode f32", 3, F32), ("prefill", 40, F16), ("prefill f32", 40, F32))
def pos_out_of_range(rows, dtype):
    """The smallest integer stands for no key, the largest for all of them."""
    q, k, v = inputs(1, rows, 100, dtype=dtype)
    for mode in (kfa.AUTO, kfa.STANDARD):
        for position, keys in ((-(2**31), 0), (-7, 0), (-1, 0), (100, 100), (2**31 - 1, 100)):
            pos = torch.tensor([position], dtype=torch.int32, device="cuda")
            lse = torch.full((1, 8, rows), 7.0, device="cuda")
            out = torch.full_like(q, 7.0)
            d = kfa.desc(q, k, v, out, pos=pos, mode=mode, lse=lse)
            w = kfa.give_workspace(d)
            kfa.forward(d)
            if keys:
                compare(out, oracle(q, k, v)[0], BOUND[dtype], f"pos {position}")
            else:
                assert (out == 0).all() and (lse == -math.inf).all(), f"pos {position}: keys were seen"


# ---- the API around it -------------------------------------------------------------------------

def inputs(b=1, q_len=1, kv_len=256, heads=8, kv_heads=2, dim=64, dtype=F32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    make = lambda n, h: torch.randn(b, n, h, dim, generator=generator, device="cuda").to(dtype)
    return make(q_len, heads), make(kv_len, kv_heads), make(kv_len, kv_heads)


def refused(status, words, function):
    try:
        function()
    except kfa.Error as error:
        assert error.status == status, f"status {error.status}, expected {status}: {error.message}"
        for word in words:
            assert word in error.message, f"{word!r} is not in: {error.message}"
        return
    raise AssertionError("was not refused")


@test("api/errors")
def errors():
    q, k, v = inputs()
    out = torch.full_like(q, 7.0)

    def broken(**changes):
        d = kfa.desc(q, k, v, out)
        kfa.give_workspace(d)
        for name, value in changes.items():
            if name in ("query", "key", "value", "output"):
                getattr(d, name).data = value
            else:
                setattr(d, name, value)
        kfa.forward(d)

    host = torch.zeros(k.numel())
    pinned = torch.zeros(k.numel()).pin_memory()
    for name in ("query", "key", "value", "output"):
        refused(kfa.INVALID_ARGUMENT, [name, "not CUDA memory"], lambda: broken(**{name: host.data_ptr()}))
        refused(kfa.INVALID_ARGUMENT, [name, "pinned host memory"], lambda: broken(**{name: pinned.data_ptr()}))
    refused(kfa.INVALID_ARGUMENT, ["lse", "not CUDA memory"], lambda: broken(lse=host.data_ptr()))
    refused(kfa.INVALID_ARGUMENT, ["device_index is 63"], lambda: broken(device_index=63))
    refused(kfa.INVALID_ARGUMENT, ["workspace_size", "expected at least"],
            lambda: broken(mode=kfa.STANDARD, workspace=None, workspace_size=0))
    refused(kfa.UNSUPPORTED, ["KFA_FLAG_FAST_MATH"], lambda: broken(flags=4))
    torch.cuda.synchronize()
    assert (out == 7.0).all(), "an error wrote to the output"
    if torch.cuda.device_count() > 1:
        other = k.to("cuda:1")
        refused(kfa.INVALID_ARGUMENT, ["key", "device 1"], lambda: broken(key=other.data_ptr()))


@test("api/planning needs no pointers")
def planning():
    d = kfa.Desc()
    kfa.check(kfa.lib.kfa_attention_desc_init_sized(c.byref(d), c.sizeof(d)))
    d.device, d.q_len, d.kv_len, d.heads, d.kv_heads, d.head_dim = kfa.CUDA, 1, 1024, 8, 2, 64
    assert kfa.explain(d).startswith("cuda."), kfa.explain(d)
    kfa.workspace_size(d)
    d.mode = kfa.STANDARD
    assert kfa.workspace_size(d) == 4 * 8 * 1024


@test("api/few scores at a time")
def few_scores():
    """Standard MHA runs with the scores of one query row, of all heads."""
    q, k, v = inputs(2, 9, 50)
    out = torch.full_like(q, math.nan)
    d = kfa.desc(q, k, v, out, mode=kfa.STANDARD)
    w = kfa.give_workspace(d)
    d.workspace_size //= 4  # 2 of 9 rows
    kfa.forward(d)
    compare(out, oracle(q, k, v)[0], 1e-5, "standard")


@test("api/managed memory and pinned pos")
def pinned_pos():
    q, k, v = inputs()
    out = torch.full_like(q, math.nan)
    pos = torch.tensor([99], dtype=torch.int32).pin_memory()
    d = kfa.desc(q, k, v, out, pos=pos)
    w = kfa.give_workspace(d)
    kfa.forward(d)
    torch.cuda.synchronize()
    compare(out, oracle(q, k[:, :100], v[:, :100])[0], 1e-5, "pos in pinned memory")


@test("api/merge")
def merge():
    q, k, v = inputs(2, 3, 200)
    outs, lses = [], []
    for part in (slice(0, 70), slice(70, 71), slice(71, 200)):
        lses.append(torch.empty(2, 8, 3, device="cuda"))
        outs.append(kfa.attention(q, k[:, part], v[:, part], causal=False, lse=lses[-1]))
    empty = torch.full_like(outs[0], math.nan)
    outs.append(empty)
    lses.append(torch.full_like(lses[0], -math.inf))
    out, lse = torch.full_like(q, math.nan), torch.full_like(lses[0], math.nan)
    m = kfa.MergeDesc(c.sizeof(kfa.MergeDesc), kfa.CUDA, len(outs), 2, 3, 8, 64, 0)
    m.outputs = (c.c_void_p * len(outs))(*(t.data_ptr() for t in outs))
    m.lses = (c.c_void_p * len(lses))(*(t.data_ptr() for t in lses))
    m.output, m.lse, m.stream = out.data_ptr(), lse.data_ptr(), torch.cuda.current_stream().cuda_stream
    kfa.check(kfa.lib.kfa_attention_merge(c.byref(m)))
    want, want_lse = oracle(q, k, v, causal=False)
    compare(out, want, 1e-5, "merged")
    compare(lse, want_lse, 2e-5, "merged lse")


@test("streams/side stream, null stream, per-thread stream", )
def streams():
    q, k, v = inputs(kv_len=3000)
    want = oracle(q, k, v)[0]
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    for handle in (side.cuda_stream, 0, 2):
        for mode in (kfa.AUTO, kfa.STANDARD):
            out = torch.full_like(q, math.nan)
            torch.cuda.synchronize()
            d = kfa.desc(q, k, v, out, mode=mode)
            d.stream = handle
            w = kfa.give_workspace(d)
            torch.cuda.synchronize()
            kfa.forward(d)
            torch.cuda.synchronize()
            compare(out, want, 1e-5, f"stream {handle:#x}")


@test("streams/ordered with the caller's work, never synchronised")
def ordered():
    """The call returns while its stream still sleeps, and computes with what is written later."""
    q, k, v = inputs(kv_len=512)
    late = torch.zeros_like(q)
    out = torch.full_like(q, math.nan)
    d = kfa.desc(late, k, v, out)
    w = kfa.give_workspace(d)
    kfa.forward(d)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        d.stream = side.cuda_stream
        torch.cuda._sleep(400_000_000)  # about 0.2 s
        late.copy_(q)
        begin = time.perf_counter()
        kfa.forward(d)
        host = time.perf_counter() - begin
        asleep = not side.query()
    side.synchronize()
    assert asleep and host < 0.05, f"the call waited: {host:.3f} s"
    compare(out, oracle(q, k, v)[0], 1e-5, "ordered")


@test("streams/calls that feed each other", ("f32", F32), ("f16", F16))
def chained(dtype):
    """Each call's query is the output of the one before, and all share one workspace: without a wait in
    between, as kernels that start before their predecessors end, the same bits as with one."""
    q, k, v = inputs(kv_len=9000, dtype=dtype)
    lengths = (130, 9000, 700, 64, 2000, 4097, 333, 9000, 1500) * 5
    x = torch.full((len(lengths) + 1, *q.shape), math.nan, dtype=dtype, device="cuda")
    x[0] = q
    w = torch.full((1 << 20,), 127, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.Stream()
    descs = []
    for i, n in enumerate(lengths):
        # A sharp softmax keeps the outputs as large as the values.
        d = kfa.desc(x[i], k[:, :n], v[:, :n], x[i + 1], scale=2.0, stream=stream.cuda_stream,
                     mode=kfa.STANDARD if i % 11 == 10 else kfa.AUTO)
        d.workspace, d.workspace_size = w.data_ptr(), w.numel()
        descs.append(d)

    def run(wait=False):
        for d in descs:
            kfa.forward(d)
            if wait:
                torch.cuda.synchronize()

    torch.cuda.synchronize()
    run(wait=True)
    want = x.clone()
    compare(want[1], oracle(q, k[:, :130], v[:, :130], scale=2.0)[0], 10 * BOUND[dtype], "the first call")
    assert not want.isnan().any() and want[-1].abs().max() > 0.5
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    for again in (run, graph.replay) * 5:
        x[1:] = math.nan
        torch.cuda.synchronize()
        again()
        torch.cuda.synchronize()
        wrong = [i for i in range(len(lengths)) if not torch.equal(x[i + 1], want[i + 1])]
        assert not wrong, f"calls {wrong[:5]} differ"


@test("streams/two streams at once", ("flash", kfa.AUTO), ("standard", kfa.STANDARD))
def two_streams(mode):
    jobs = []
    for seed in (1, 2):
        q, k, v = inputs(kv_len=2000, seed=seed)
        stream = torch.cuda.Stream()
        out = torch.full_like(q, math.nan)
        d = kfa.desc(q, k, v, out, mode=mode, stream=stream.cuda_stream)
        jobs.append((d, kfa.give_workspace(d), out, oracle(q, k, v)[0], (q, k, v, stream)))
    torch.cuda.synchronize()
    for _ in range(50):
        for d, *_ in jobs:
            kfa.forward(d)
    torch.cuda.synchronize()
    for _, _, out, want, _ in jobs:
        compare(out, want, 1e-5, "two streams")


@test("streams/two host threads", ("descriptions",))
def two_threads():
    """Also through the getters, whose scratch the library owns."""
    torch.cuda.synchronize()
    failures = []

    def work(seed):
        try:
            stream = torch.cuda.Stream()
            kernel = kfa.lib.kfa_get_flash_attention_kernel(kfa.CUDA)
            with torch.cuda.stream(stream):
                q, k, v = inputs(kv_len=1500, seed=seed)
                want = oracle(q, k, v)[0]
                out, out2 = torch.full_like(q, math.nan), torch.full_like(q, math.nan)
                d = kfa.desc(q, k, v, out)
                w = kfa.give_workspace(d)
                for _ in range(200):
                    kfa.forward(d)
                    kfa.check(kernel(kfa.tensor(q), kfa.tensor(k), kfa.tensor(v), kfa.tensor(out2), 8, 2, 64, 1500,
                                     1499, 0, 0.0, True, kfa.CUDA, stream.cuda_stream))
                stream.synchronize()
                compare(out, want, 1e-5, "thread")
                compare(out2, want, 1e-5, "thread, getter")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    if failures:
        raise failures[0]


@test("streams/a thread without a context")
def bare_thread():
    """A thread that never touched CUDA: the primary context is pushed and popped."""
    q, k, v = inputs(kv_len=300)
    out = torch.full_like(q, math.nan)
    d = kfa.desc(q, k, v, out)
    w = kfa.give_workspace(d)
    torch.cuda.synchronize()
    cuda = c.CDLL("libcuda.so.1")
    seen = []

    def work():
        context = c.c_void_p(1)
        cuda.cuCtxGetCurrent(c.byref(context))
        before = context.value
        status = kfa.lib.kfa_attention_forward(c.byref(d))
        cuda.cuCtxGetCurrent(c.byref(context))
        seen.extend([before, status, context.value])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert seen == [None, kfa.OK, None], f"context before, status, context after: {seen}"
    compare(out, oracle(q, k, v)[0], 1e-5, "bare thread")


# ---- several GPUs ------------------------------------------------------------------------------

def second_device():
    if torch.cuda.device_count() < 2:
        raise Skip("needs two GPUs")
    return torch.device("cuda:1")


@test("devices/the pointers decide", ("decode", 1, kfa.AUTO), ("prefill", 40, kfa.AUTO), ("standard", 3, kfa.STANDARD))
def pointers_decide(rows, mode):
    """While device 0 is current: on the second device's default stream and on a stream of its own."""
    there = second_device()
    q, k, v = inputs(1, rows, 3000)
    want = oracle(q, k, v)[0]
    q, k, v, want = (t.to(there) for t in (q, k, v, want))
    own = torch.cuda.Stream(there)
    for stream in (0, own.cuda_stream):
        for index in (-1, 1):
            out = torch.full_like(q, math.nan)
            d = kfa.desc(q, k, v, out, mode=mode, stream=stream)
            d.device_index = index
            w = kfa.give_workspace(d, lambda n: torch.full((n,), 127, dtype=torch.uint8, device=there))
            torch.cuda.synchronize(there)
            kfa.forward(d)
            torch.cuda.synchronize(there)
            assert torch.cuda.current_device() == 0
            compare(out, want, 1e-5, f"on device 1, stream {stream:#x}, device_index {index}")
    q0, k0, v0 = inputs(1, rows, 500)
    compare(kfa.attention(q0, k0, v0, mode=mode), oracle(q0, k0, v0)[0], 1e-5, "back on device 0")


@test("devices/mixed and mismatched")
def mixed_devices():
    there = second_device()
    q, k, v = inputs()
    tensors = dict(query=q, key=k, value=v, output=torch.full_like(q, 7.0))
    for name, tensor in tensors.items():
        changed = dict(tensors, **{name: tensor.to(there)})
        d = kfa.desc(*changed.values())
        refused(kfa.INVALID_ARGUMENT, ["device 1", "device 0", "expected one device"], lambda: kfa.forward(d))
    for name, tensor in (("lse", torch.zeros(64, device=there)), ("pos", torch.zeros(1, dtype=torch.int32, device=there))):
        d = kfa.desc(*tensors.values(), **{name: tensor})
        refused(kfa.INVALID_ARGUMENT, [name, "device 1", "device 0"], lambda: kfa.forward(d))
    d = kfa.desc(*tensors.values())
    d.device_index = 1
    refused(kfa.INVALID_ARGUMENT, ["device_index is 1", "device 0"], lambda: kfa.forward(d))
    torch.cuda.synchronize()
    assert (tensors["output"] == 7.0).all(), "a refused call wrote to the output"


@test("devices/a thread each")
def device_threads():
    """Both devices at once, through the getters too, whose scratch is per device."""
    devices = [torch.device("cuda:0"), second_device()]
    kernel = kfa.lib.kfa_get_flash_attention_kernel(kfa.CUDA)
    jobs, failures = [], []
    for seed, device in enumerate(devices):
        q, k, v = inputs(kv_len=3000, seed=seed)
        want = oracle(q, k, v)[0]
        jobs.append(tuple(t.to(device) for t in (q, k, v, want, torch.full_like(q, math.nan), torch.full_like(q, math.nan))))
    [torch.cuda.synchronize(device) for device in devices]

    def work(device, q, k, v, want, out, out2):
        try:
            stream = torch.cuda.Stream(device)
            d = kfa.desc(q, k, v, out, stream=stream.cuda_stream)
            w = kfa.give_workspace(d, lambda n: torch.empty(n, dtype=torch.uint8, device=device))
            for _ in range(200):
                kfa.forward(d)
                kfa.check(kernel(kfa.tensor(q), kfa.tensor(k), kfa.tensor(v), kfa.tensor(out2), 8, 2, 64, 3000,
                                 2999, 0, 0.0, True, kfa.CUDA, stream.cuda_stream))
            stream.synchronize()
            compare(out, want, 1e-5, f"thread of {device}")
            compare(out2, want, 1e-5, f"thread of {device}, getter")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(device, *job)) for device, job in zip(devices, jobs)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    if failures:
        raise failures[0]


@test("devices/graph on the second")
def second_graph():
    there = second_device()
    q, k, v = inputs(kv_len=3000)
    want = oracle(q, k, v)[0]
    with torch.cuda.device(there):
        q, k, v, want = (t.to(there) for t in (q, k, v, want))
        out = torch.full_like(q, math.nan)
        d = kfa.desc(q, k, v, out)
        w = kfa.give_workspace(d)
        stream = torch.cuda.Stream()
        d.stream = stream.cuda_stream
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kfa.forward(d)
        graph.replay()
        torch.cuda.synchronize()
        compare(out, want, 1e-5, "graph on device 1")


# ---- the engine's interface --------------------------------------------------------------------

LAYERS, CAPACITY, HEADS, KV_HEADS, DIM = 3, 400, 8, 2, 64


def caches(seed=5):
    generator = torch.Generator("cuda").manual_seed(seed)
    make = lambda: torch.randn(LAYERS, CAPACITY, KV_HEADS, DIM, generator=generator, device="cuda")
    return make(), make()


def query(rows=1, seed=6):
    return torch.randn(1, rows, HEADS, DIM, generator=torch.Generator("cuda").manual_seed(seed), device="cuda")


def with_nan(cache, layer, pos):
    """The cache as an engine has it: nothing valid beyond pos, in any layer."""
    poisoned = torch.full_like(cache, math.nan)
    poisoned[layer, : pos + 1] = cache[layer, : pos + 1]
    return poisoned


class Layer:
    def __init__(self, stream=None):
        self.handle = c.c_void_p()
        kfa.check(kfa.lib.kfa_flash_attention_layer_create(
            kfa.CUDA, 0, HEADS // KV_HEADS, KV_HEADS * DIM, CAPACITY, HEADS, DIM, 0.0, c.byref(self.handle)))
        self.set("stream", torch.cuda.current_stream().cuda_stream if stream is None else stream)

    def set(self, what, *values):
        kfa.check(getattr(kfa.lib, "kfa_flash_attention_layer_set_" + what)(self.handle, *values))

    def forward(self, q, k, v, out, layer, pos):
        for index, t in enumerate((q, k, v)):
            self.set("input", index, kfa.tensor(t))
        self.set("output", 0, kfa.tensor(out))
        self.set("pos", pos)
        self.set("layer_idx", layer)
        kfa.check(kfa.lib.kfa_flash_attention_layer_forward(self.handle))

    def __del__(self):
        kfa.lib.kfa_flash_attention_layer_destroy(self.handle)


@test("engine/layer", ("decode", 1), ("chunk", 7), ("prefill", 200))
def layer(rows):
    k, v = caches()
    layer = Layer()
    for index in range(LAYERS):
        for pos in {rows - 1, 250, CAPACITY - 1}:
            q = query(rows)
            out = torch.full_like(q, math.nan)
            layer.forward(q, with_nan(k, index, pos), with_nan(v, index, pos), out, index, pos)
            want = oracle(q, k[index : index + 1, : pos + 1], v[index : index + 1, : pos + 1])[0]
            compare(out, want, 1e-5, f"layer {index} pos {pos} by {kfa.last_kernel()}")


@test("engine/getters", ("decode", 1), ("chunk", 5))
def getters(rows):
    k, v = caches()
    flash = kfa.lib.kfa_get_flash_attention_kernel(kfa.CUDA)
    mha, standard = kfa.lib.kfa_get_mha_kernel(kfa.CUDA), kfa.lib.kfa_get_standard_mha_kernel(kfa.CUDA)
    stream = torch.cuda.current_stream().cuda_stream
    score = torch.full((HEADS * CAPACITY * (2 if rows > 1 else 1),), math.nan, device="cuda")
    for index, pos in ((0, rows - 1), (2, 311), (1, CAPACITY - 1)):
        q = query(rows)
        kk, vv = with_nan(k, index, pos), with_nan(v, index, pos)
        want = oracle(q, k[index : index + 1, : pos + 1], v[index : index + 1, : pos + 1])[0]
        out = torch.full_like(q, math.nan)
        kfa.check(flash(kfa.tensor(q), kfa.tensor(kk), kfa.tensor(vv), kfa.tensor(out), HEADS, KV_HEADS, DIM, CAPACITY,
                        pos, index, 0.0, True, kfa.CUDA, stream))
        compare(out, want, 1e-5, f"flash getter by {kfa.last_kernel()}")
        for kernel in mha, standard:  # the first leaves the scores alone where flash serves it
            out.fill_(math.nan)
            score.fill_(math.nan)
            kfa.check(kernel(pos, HEADS, index, CAPACITY, KV_HEADS * DIM, HEADS // KV_HEADS, DIM, kfa.tensor(out),
                             kfa.tensor(q), kfa.tensor(score), kfa.tensor(kk), kfa.tensor(vv), kfa.CUDA, stream))
            compare(out, want, 1e-5, f"mha getter by {kfa.last_kernel()}")
            stored = "standard_mha" in kfa.last_kernel()
            assert stored or kernel is mha, kfa.last_kernel()
            assert stored == bool(score.isfinite().any()), f"scores by {kfa.last_kernel()}"


# ---- graphs ------------------------------------------------------------------------------------

def replay_model(mode, dtype=F32, warm=True):
    """Decode of all layers captured once, replayed for every token with pos in device memory."""
    k, v = (t.to(dtype) for t in caches())
    live_k, live_v = torch.full_like(k, math.nan), torch.full_like(v, math.nan)
    qs = torch.zeros(LAYERS, 1, HEADS, DIM, device="cuda", dtype=dtype)
    outs = torch.full_like(qs, math.nan)
    pos = torch.zeros(1, dtype=torch.int32, device="cuda")
    stream = torch.cuda.Stream()
    descs, keep = [], []
    for i in range(LAYERS):
        d = kfa.desc(qs[i : i + 1], live_k[i : i + 1], live_v[i : i + 1], outs[i : i + 1], mode=mode, pos=pos,
                     stream=stream.cuda_stream)
        if warm:
            keep.append(kfa.give_workspace(d))
        else:
            keep.append(torch.empty(1 << 20, dtype=torch.uint8, device="cuda"))
            d.workspace, d.workspace_size = keep[-1].data_ptr(), keep[-1].numel()
        descs.append(d)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for d in descs:
            kfa.forward(d)
    kernel = kfa.last_kernel()
    for token in (0, 1, 2, 30, 31, 32, 33, 130, 256, CAPACITY - 1):
        live_k[:, : token + 1], live_v[:, : token + 1] = k[:, : token + 1], v[:, : token + 1]
        generator = torch.Generator("cuda").manual_seed(token)
        qs.copy_(torch.randn(qs.shape, generator=generator, device="cuda"))
        pos.fill_(token)
        outs.fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize()
        want = oracle(qs, live_k[:, : token + 1], live_v[:, : token + 1])[0]
        compare(outs, want, BOUND[dtype], f"{kernel} replayed at pos {token}")


@test("graph/pos in device memory", ("flash f32", kfa.AUTO, F32), ("flash f16", kfa.AUTO, F16), ("flash bf16", kfa.AUTO, BF16),
      ("standard f32", kfa.STANDARD, F32))
def graph_pos(mode, dtype):
    replay_model(mode, dtype)


@test("graph/layer", ("decode", 1), ("prefill", 64))
def graph_layer(rows):
    k, v = caches()
    q = query(rows)
    out = torch.full_like(q, math.nan)
    stream = torch.cuda.Stream()
    layer = Layer(stream.cuda_stream)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        layer.forward(q, k, v, out, 1, 300)
    q.copy_(query(rows, 77))
    graph.replay()
    torch.cuda.synchronize()
    compare(out, oracle(q, k[1:2, :301], v[1:2, :301])[0], 1e-5, "graph of a layer")


@test("graph/first call of a process", ("descriptions", "desc"), ("layer", "layer"), ("fork", "fork"))
def fresh(what):
    """In a fresh process the first call of all happens inside the capture."""
    run = subprocess.run([sys.executable, __file__, "--inner", what], capture_output=True, text=True)
    assert run.returncode == 0, (run.stdout + run.stderr)[-1500:]


def inner(what):
    if what == "desc":
        for mode in (kfa.STANDARD, kfa.AUTO):
            replay_model(mode, F32, warm=False)
    elif what == "layer":
        graph_layer(1)
    elif what == "fork":
        q, k, v = inputs()
        d = kfa.desc(q, k, v, q)
        kfa.attention(q, k, v)
        torch.cuda.synchronize()
        child = os.fork()
        if child == 0:
            status = kfa.lib.kfa_attention_forward(c.byref(d))
            message = kfa.lib.kfa_last_error_message().decode()
            os._exit(0 if status == kfa.CUDA_ERROR and "forked" in message else 1)
        assert os.waitpid(child, 0)[1] == 0, "a fork's call was not refused cleanly"


# ---- features beyond plain attention ------------------------------------------------------------

def i32(*values):
    return torch.tensor(values, dtype=torch.int32, device="cuda")


def features(dtype=F32, mode=kfa.STANDARD, b=3, q_len=5, kv_len=37, heads=4, kv_heads=2, dim=24, vdim=None, causal=1, window=0,
             right=0, chunk=0, spans=False, softcap=0.0, alibi=False, sinks=False, mask=None, columns=0, newest=0, offsets=False,
             factor=False, q_lens=None, kv_lens=None, kv_starts=None, cache_index=None, packed=False, page_size=0, csr=False,
             value_pages=False, lse_strided=False, base2=False, scale=0.3, flash=False):
    """One problem against an oracle that goes row by row, in float64, on the host."""
    generator = torch.Generator("cuda").manual_seed(11)
    rand = lambda *shape: torch.randn(*shape, generator=generator, device="cuda")
    vdim = vdim or dim
    entries = 5 if cache_index else b
    lens_q = q_lens or [q_len] * b
    lens_kv = kv_lens or [kv_len] * b
    starts = kv_starts or [0] * b
    q, k, v = rand(b, q_len, heads, dim).to(dtype), rand(entries, kv_len, kv_heads, dim).to(dtype), rand(entries, kv_len, kv_heads, vdim).to(dtype)
    out = torch.full((b, q_len, heads, vdim), 7.0, dtype=dtype, device="cuda")
    caches = [k, v]
    of = lambda s: s if cache_index is None else cache_index[s]
    for s in range(b):  # what no row may see
        for t in caches:
            if cache_index is None:
                t[s, lens_kv[s]:] = math.nan
                t[s, : starts[s]] = math.nan
    want_k, want_v = k.clone(), v.clone()
    keep, d_fields = [], {}
    query, output, keys, values = q, out, k, v
    q_offsets = kv_offsets = None
    if packed:
        q_offsets = [sum(lens_q[:s]) for s in range(b + 1)]
        kv_offsets = [sum(lens_kv[:s]) for s in range(b + 1)]
        query = torch.cat([q[s, : lens_q[s]] for s in range(b)])[None]
        output = torch.full((1, query.shape[1], heads, vdim), 7.0, dtype=dtype, device="cuda")
        keys = torch.cat([k[s, : lens_kv[s]] for s in range(b)])[None]
        values = torch.cat([v[s, : lens_kv[s]] for s in range(b)])[None]
        d_fields.update(query_offsets=i32(*q_offsets), kv_offsets=i32(*kv_offsets))
    if page_size:
        each = -(-kv_len // page_size)
        pages = b * each + 3
        order = torch.randperm(pages, generator=torch.Generator().manual_seed(5)).tolist()
        order_v = order[::-1] if value_pages else order
        keys = torch.full((pages, page_size, kv_heads, dim), math.nan, dtype=dtype, device="cuda")
        values = torch.full((pages, page_size, kv_heads, vdim), math.nan, dtype=dtype, device="cuda")
        tables = ([], [])
        page_offsets = [0]
        for s in range(b):
            used = -(-lens_kv[s] // page_size)
            for i in range(used if csr else each):
                for table, ids, paged, dense in ((tables[0], order, keys, k), (tables[1], order_v, values, v)):
                    page = ids[s * each + i]
                    table.append(page if i < used and (i + 1) * page_size > starts[s] else -1)
                    part = dense[s, i * page_size : (i + 1) * page_size]
                    paged[page, : len(part)] = part
            page_offsets.append(len(tables[0]))
        d_fields.update(page_table=i32(*tables[0]))
        if value_pages:
            d_fields.update(value_page_table=i32(*tables[1]))
        if csr:
            d_fields.update(page_offsets=i32(*page_offsets))
    for name, given in (("q_lens", q_lens), ("kv_lens", kv_lens), ("kv_starts", kv_starts), ("cache_index", cache_index)):
        if given and not (packed and name in ("q_lens", "kv_lens")):
            d_fields[name] = i32(*given)
    if spans:
        ends = torch.randint(0, kv_len + 1, (b, q_len), generator=generator, device="cuda", dtype=torch.int32)
        ends[:, 0] = 0
        d_fields["span_ends"] = torch.cat([ends[s, : lens_q[s]] for s in range(b)]) if packed else ends
    if alibi:
        slopes = rand(b, heads).abs() * 0.2
        d_fields["alibi_slopes"] = slopes
    if sinks:
        sink = rand(heads)
        d_fields["sinks"] = sink
    full = torch.zeros(b, heads, q_len, kv_len, dtype=torch.float64, device="cuda")
    if mask:
        n = columns or kv_len
        hide = torch.rand(b, heads, q_len, n, generator=generator, device="cuda") < 0.4
        numbers = rand(b, heads, q_len, n)
        kind = {"f32": F32, "f16": F16, "bf16": BF16}.get(mask)
        if kind:
            stored = numbers.masked_fill(hide, -math.inf).to(kind)
            said = stored.double()
            if factor:
                by_head = rand(heads)
                said = torch.where(said == -math.inf, said, said * by_head.double()[:, None, None])
                d_fields["mask_head_factor"] = by_head
        else:
            said = torch.zeros_like(numbers, dtype=torch.float64).masked_fill(hide, -math.inf)
            stored = (~hide).to(torch.uint8)
            if mask == "bits":
                bits = stored.flatten()
                bits = torch.cat([bits, torch.zeros(-len(bits) % 8, dtype=torch.uint8, device="cuda")]).view(-1, 8)
                stored_bits = (bits << torch.arange(8, device="cuda", dtype=torch.uint8)).sum(-1).to(torch.uint8)
        data = stored_bits if mask == "bits" else stored
        if offsets:  # sequences in another order
            d_fields["mask_offsets"] = torch.tensor([(b - 1 - s) * heads * q_len * n for s in range(b)], device="cuda")
            said = said.flip(0)
        for s in range(b):
            oldest = lens_kv[s] - n if newest else 0
            for column in range(n):
                if 0 <= oldest + column < kv_len:
                    full[s, :, :, oldest + column] = said[s, :, :, column]
    rows = query.shape[1]
    lse = torch.full((b, heads + 1, q_len + 2), 7.0, device="cuda") if lse_strided else torch.full((rows, heads) if packed else (b, heads, q_len), 7.0, device="cuda")
    d = kfa.desc(query, keys, values, output, causal=causal, lse=lse, mode=mode, scale=scale)
    d.batch, d.q_len, d.kv_len, d.value_head_dim = b, q_len, kv_len, vdim
    d.sliding_window, d.window_right, d.attention_chunk, d.softcap = window, right, chunk, softcap
    d.is_causal = causal
    if base2:
        d.flags = 8
    if page_size:
        d.page_size, d.pages = page_size, keys.shape[0]
        if csr:
            d.page_table_stride = len(d_fields["page_table"])
    if cache_index:
        d.cache_batch = entries
    if packed:
        d.query_rows, d.kv_rows = rows, keys.shape[1]
    if alibi:
        d.alibi_batch_stride = heads
    if lse_strided:
        d.lse_batch_stride, d.lse_head_stride, d.lse_row_stride = lse.stride()
    if mask:
        d.mask.kind = {"bool": 2, "bits": 3}.get(mask, 1)
        d.mask.dtype = kfa.DTYPES[kind] if kind else 0
        d.mask.data = data.data_ptr()
        d.mask.batch_stride, d.mask.head_stride, d.mask.row_stride = heads * q_len * n, q_len * n, n
        d.mask_columns, d.mask_newest = columns, newest
    for name, tensor in d_fields.items():
        setattr(d, name, tensor.data_ptr())
    explained = kfa.explain(d).splitlines()[0]
    if explained.startswith("none") or flash and "flash" not in explained:
        raise Skip(kfa.explain(d).splitlines()[-1])
    w = kfa.give_workspace(d)
    kfa.forward(d)
    torch.cuda.synchronize()
    name = kfa.last_kernel()
    base = math.log(2) if base2 else 1.0
    for s, h in itertools.product(range(b), range(heads)):
        kk, vv = (t[of(s), :, h // (heads // kv_heads)].double() for t in (want_k, want_v))
        for row in range(q_len):
            at = (0, q_offsets[s] + row) if packed else (s, row)
            got = None if packed and row >= lens_q[s] else output[at[0], at[1], h].double()
            if row >= lens_q[s]:
                assert got is None or (got == 7.0).all(), f"{name}: row {row} of sequence {s} is past its end, but was written"
                continue
            own = row if causal == 2 else lens_kv[s] - lens_q[s] + row
            first, end = starts[s], lens_kv[s]
            if causal:
                end = min(end, max(own + 1, int(ends[s, row]) if spans else 0))
            elif right:
                end = min(end, own + 1 + right)
            if window:
                first = max(first, own + 1 - window)
            if chunk:
                first, end = max(first, own // chunk * chunk), min(end, own // chunk * chunk + chunk)
            seen = [key for key in range(first, end) if full[s, h, row, key] != -math.inf]
            scores = torch.tensor([], dtype=torch.float64, device="cuda")
            if seen:
                index = torch.tensor(seen, device="cuda")
                scores = kk[index] @ q[s, row, h].double() * scale
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                if alibi:
                    scores = scores - slopes[s, h].double() * (index - own).abs()
                scores = scores + full[s, h, row, index]
            everything = torch.cat([scores, sink[h].double()[None]]) if sinks else scores
            l = torch.logsumexp(everything, 0) if len(everything) else torch.tensor(-math.inf, dtype=torch.float64, device="cuda")
            want = torch.exp(scores - l) @ vv[index] if seen else torch.zeros(vdim, dtype=torch.float64, device="cuda")
            compare(got, want, BOUND[dtype], f"{name} sequence {s} row {row} head {h}")
            got_l = lse[at[1], h] if packed and not lse_strided else lse[s, h, row]
            compare(got_l, l / base, 1e-5 if dtype == F32 else 2e-3, f"{name} lse of sequence {s} row {row} head {h}")
    if lse_strided:
        assert (lse[:, heads] == 7.0).all() and (lse[:, :, q_len:] == 7.0).all(), f"{name}: wrote between the LSE's rows"


FEATURES = {
    "window": dict(window=4), "window 1": dict(window=1), "window not causal": dict(causal=0, window=3, right=2),
    "right": dict(causal=0, right=1), "top-left": dict(causal=2), "top-left window": dict(causal=2, window=2),
    "chunk": dict(chunk=6), "chunk not causal": dict(causal=0, chunk=5), "spans": dict(spans=True), "spans window": dict(spans=True, window=6),
    "softcap": dict(softcap=2.0), "alibi": dict(alibi=True), "alibi not causal": dict(alibi=True, causal=0), "sinks": dict(sinks=True),
    "sinks without keys": dict(sinks=True, kv_lens=[37, 0, 2]), "additive": dict(mask="f32"), "additive f16": dict(mask="f16"), "additive bf16": dict(mask="bf16", causal=0),
    "factor": dict(mask="f32", factor=True), "boolean": dict(mask="bool"), "bits": dict(mask="bits", causal=0), "columns": dict(mask="bool", columns=9),
    "newest": dict(mask="bits", columns=9, newest=1, causal=0), "mask offsets": dict(mask="f32", offsets=True), "value_head_dim": dict(vdim=40), "value_head_dim 1": dict(vdim=1),
    "lens": dict(kv_lens=[37, 20, 0]), "q_lens": dict(q_lens=[5, 1, 0], kv_lens=[37, 9, 4]), "starts": dict(kv_starts=[0, 7, 37]), "starts lens": dict(kv_starts=[3, 0, 9], kv_lens=[37, 20, 9]),
    "q_len above kv_len": dict(kv_lens=[3, 1, 0]), "cache_index": dict(cache_index=[4, 0, 2]), "packed": dict(packed=True, q_lens=[5, 1, 3], kv_lens=[37, 20, 8]),
    "packed spans": dict(packed=True, q_lens=[5, 2, 3], kv_lens=[37, 20, 8], spans=True), "pages": dict(page_size=8), "pages of 1": dict(page_size=1, kv_lens=[37, 20, 0]),
    "pages starts": dict(page_size=4, kv_starts=[9, 0, 20]), "pages csr": dict(page_size=16, csr=True, kv_lens=[37, 5, 17]), "value pages": dict(page_size=8, value_pages=True),
    "lse strides": dict(lse_strided=True), "base 2": dict(base2=True), "base 2 sinks": dict(base2=True, sinks=True),
    "everything": dict(window=20, softcap=3.0, alibi=True, sinks=True, mask="f16", page_size=4, kv_lens=[37, 30, 11], vdim=40),
    "decode lens": dict(q_len=1, kv_lens=[37, 20, 0]), "decode pages": dict(q_len=1, page_size=16, kv_lens=[37, 1, 20], sinks=True),
}
for label, options in FEATURES.items():
    for dtype in (F32, F16):
        TESTS.append((f"features/{label} {NAME[dtype]} standard", lambda t=dtype, o=options: features(t, **o)))


@test("features/bad entries touch nothing")
def bad_entries():
    """Lengths and pages beyond their bounds: clipped, or passed over, but never followed."""
    q, k, v = inputs(2, 3, 40)
    pages = k.reshape(10, 8, 2, 64), v.reshape(10, 8, 2, 64)
    out = torch.full_like(q, 7.0)
    for fields in (dict(kv_lens=i32(2**31 - 1, -(2**31))), dict(kv_starts=i32(-5, 99)), dict(q_lens=i32(99, -1)),
                   dict(page_table=i32(0, 2**30, -7, 10, 4, 5, 6, 7, 8, 9)), dict(cache_index=i32(99, -1))):
        paged = "page_table" in fields
        d = kfa.desc(q, pages[0] if paged else k, pages[1] if paged else v, out, mode=kfa.STANDARD, kv_len=40)
        d.batch = 2
        if paged:
            d.page_size, d.pages = 8, 10
        if "cache_index" in fields:
            d.cache_batch = 2
        for name, tensor in fields.items():
            setattr(d, name, tensor.data_ptr())
        w = kfa.give_workspace(d)
        kfa.forward(d)
        torch.cuda.synchronize()
        assert not out.isnan().any(), fields
    host = torch.zeros(2, dtype=torch.int32)
    d = kfa.desc(q, k, v, out, mode=kfa.STANDARD)
    d.kv_lens = host.data_ptr()
    refused(kfa.INVALID_ARGUMENT, ["kv_lens", "not CUDA memory"], lambda: kfa.forward(d))


# ---- host cost ---------------------------------------------------------------------------------

HOST = []


def per_call(call, burst=100):
    """Least microseconds per call over bursts that the launch queue swallows whole."""
    best = math.inf
    for _ in range(10):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(burst):
            call()
        best = min(best, (time.perf_counter() - begin) / burst)
    return best * 1e6


@test("host/cost of a bare launch, to compare with")
def host_bare():
    cuda = c.CDLL("libcuda.so.1")
    module, function = c.c_void_p(), c.c_void_p()
    torch.cuda.synchronize()
    image = b".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry bare() { ret; }\n\0"
    assert cuda.cuModuleLoadData(c.byref(module), image) == 0
    assert cuda.cuModuleGetFunction(c.byref(function), module, b"bare") == 0
    stream = c.c_void_p(torch.cuda.current_stream().cuda_stream)
    launch = [function, *map(c.c_uint, (32, 1, 1, 256, 1, 1, 0)), stream, None, None]
    x = torch.zeros(16, device="cuda")
    kind, which = c.c_uint(), (c.c_int * 1)(2)
    lookup = [1, which, (c.c_void_p * 1)(c.addressof(kind)), c.c_uint64(x.data_ptr())]
    HOST.append(f"bare: ctypes {per_call(kfa.lib.kfa_version):.2f} us, cuLaunchKernel {per_call(lambda: cuda.cuLaunchKernel(*launch)):.2f} us, "
                f"cuPointerGetAttributes {per_call(lambda: cuda.cuPointerGetAttributes(*lookup)):.2f} us")


@test("host/cost of one call", ("flash", kfa.AUTO), ("standard", kfa.STANDARD))
def host_cost(mode):
    for kv_len in (128, 8192):
        q, k, v = inputs(1, 1, kv_len, 32, 8, 128, F16)
        out = torch.empty_like(q)
        d = kfa.desc(q, k, v, out, mode=mode)
        w = kfa.give_workspace(d)
        call, reference = kfa.lib.kfa_attention_forward, c.byref(d)
        kfa.forward(d)
        HOST.append(f"{kfa.last_kernel()} kv{kv_len}: {per_call(lambda: call(reference)):.2f} us a call")


# ---- main --------------------------------------------------------------------------------------

def main():
    if arguments.inner:
        return inner(arguments.inner)
    words = [w for w in arguments.only.split(",") if w]
    chosen = [(n, f) for n, f in TESTS if not words or any(w in n for w in words)]
    if arguments.list:
        return print("\n".join(n for n, _ in chosen))
    print(kfa.lib.kfa_build_info().decode())
    if not torch.cuda.is_available():
        sys.exit("gpu_test: no GPU here")
    groups = collections.defaultdict(lambda: [0, 0, 0, 0.0])
    failed = []
    skipped = collections.Counter()
    for name, function in chosen:
        count = groups[name.split("/")[0]]
        begin = time.perf_counter()
        try:
            function()
            torch.cuda.synchronize()
            count[0] += 1
            if arguments.verbose:
                print(f"ok      {name}")
        except Skip as why:
            count[1] += 1
            skipped[f"{name.split('/')[0]}: {why}"] += 1
            if arguments.verbose:
                print(f"skipped {name}: {why}")
        except Exception as error:
            count[2] += 1
            failed.append(name)
            if len(failed) <= 25 or arguments.verbose:
                print(f"FAILED  {name}: {error}" if isinstance(error, AssertionError) else f"FAILED  {name}:\n{traceback.format_exc()}")
            if "CUDA error" in str(error) or "CUDA_ERROR" in str(error):
                print("a CUDA error poisons the context: stopping here")
                break
        count[3] += time.perf_counter() - begin
    for why, times in skipped.most_common(12):
        print(f"skipped {times} x {why}")
    for line in HOST:
        print(line)
    print(f"\n{'kernel':36} {'dtype':5} {'cases':>5}  largest error")
    for (kernel, dtype), cases in sorted(KERNELS.items()):
        print(f"{kernel:36} {dtype:5} {cases:5}  {WORST[kernel, dtype]:.2e}")
    print(f"\n{'group':10} {'ok':>5} {'skip':>5} {'FAIL':>5}  seconds   ({torch.cuda.get_device_name()}, KFA_CUDA_ARCH={os.environ.get('KFA_CUDA_ARCH', '')})")
    for group, (ok, skip, fail, seconds) in groups.items():
        print(f"{group:10} {ok:5} {skip:5} {fail:5}  {seconds:7.1f}")
    sys.exit(1 if failed else 0)


main()
