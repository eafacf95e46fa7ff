#!/usr/bin/env python3
"""Times two builds of the library against each other on the CPU, in one process, taking turns.

    compare_libraries.py OLD.so NEW.so [--only decode,prefill] [--seconds 1.0]

Each row is one problem of plain attention: the medians of both, the median of the ratios of
neighbouring calls (over 1: the new build is faster), and whether the outputs have equal bits. The
old library's name comes first. Needs nothing but Python; both libraries are called through the
first released size of the description, which every later one serves.
"""

import argparse
import ctypes as c
import random
import statistics
import struct
import time
from array import array

parser = argparse.ArgumentParser()
parser.add_argument("old")
parser.add_argument("new")
parser.add_argument("--only", default="decode,prefill,standard")
parser.add_argument("--seconds", type=float, default=1.0, help="per row and library")
arguments = parser.parse_args()

FP32, FP16 = 1, 4
FLASH, STANDARD = 1, 2


class View(c.Structure):
    _fields_ = [("data", c.c_void_p), ("dtype", c.c_int32), ("reserved", c.c_int32)] + [
        (name, c.c_int64) for name in "batch_stride row_stride head_stride".split()
    ]


class Desc(c.Structure):
    """The first released description."""

    _fields_ = (
        [("struct_size", c.c_uint32), ("flags", c.c_uint32)]
        + [(n, c.c_int32) for n in "device device_index mode is_causal batch q_len kv_len heads kv_heads head_dim value_head_dim".split()]
        + [("softmax_scale", c.c_float), ("softcap", c.c_float), ("sliding_window", c.c_int32)]
        + [(n, View) for n in "query key value output".split()]
        + [("lse", c.c_void_p), ("mask", c.c_int64 * 5)]
        + [(n, c.c_void_p) for n in "alibi_slopes sinks query_offsets kv_offsets kv_lens page_table".split()]
        + [("page_table_stride", c.c_int64), ("page_size", c.c_int32), ("window_right", c.c_int32)]
        + [(n, c.c_void_p) for n in "key_quant value_quant pos_device stream workspace".split()]
        + [("workspace_size", c.c_size_t)]
    )


def load(path):
    library = c.CDLL(path)
    library.kfa_last_error_message.restype = c.c_char_p
    library.kfa_last_kernel_name.restype = c.c_char_p
    return library


def check(library, status):
    if status:
        raise SystemExit(f"{library._name}: {library.kfa_last_error_message().decode()}")


BLOCK = array("f", (random.Random(7).gauss(0, 1) for _ in range(65537)))


def tensor(elements, dtype):
    """Random numbers with a period that no stride shares."""
    if dtype == FP32:
        block = BLOCK.tobytes()
    else:
        block = b"".join(struct.pack("<e", value) for value in BLOCK)
    size = elements * (4 if dtype == FP32 else 2)
    return (c.c_char * size).from_buffer_copy((block * (size // len(block) + 1))[:size])


class Call:
    """One problem bound to one library, in a workspace and an output of its own."""

    def __init__(self, library, inputs, shape):
        self.library, self.inputs = library, inputs
        batch, q_len, kv_len, heads, kv_heads, head_dim, dtype, mode = shape
        d = self.desc = Desc()
        check(library, library.kfa_attention_desc_init(c.byref(d)))
        d.batch, d.q_len, d.kv_len, d.heads, d.kv_heads, d.head_dim = shape[:6]
        d.mode = mode
        self.output = c.create_string_buffer(batch * q_len * heads * head_dim * 4)
        for view, data, kind in zip((d.query, d.key, d.value, d.output), (*inputs, self.output), (FP32, dtype, dtype, FP32)):
            view.data, view.dtype = c.addressof(data), kind
        size = c.c_size_t()
        check(library, library.kfa_attention_workspace_size(c.byref(d), c.byref(size)))
        self.workspace = c.create_string_buffer(max(size.value, 1))
        if size.value:
            d.workspace, d.workspace_size = c.addressof(self.workspace), size.value

    def time(self):
        begin = time.perf_counter_ns()
        status = self.library.kfa_attention_forward(c.byref(self.desc))
        took = time.perf_counter_ns() - begin
        check(self.library, status)
        return took


def row(name, libraries, *shape):
    batch, q_len, kv_len, heads, kv_heads, head_dim, dtype, _ = shape
    inputs = (
        tensor(batch * q_len * heads * head_dim, FP32),
        tensor(batch * kv_len * kv_heads * head_dim, dtype),
        tensor(batch * kv_len * kv_heads * head_dim + 13, dtype),
    )
    old, new = (Call(library, inputs, shape) for library in libraries)
    for call in (old, new, old, new):
        call.time()
    same = "equal" if old.output.raw == new.output.raw else "differ"
    times, until = ([], []), time.perf_counter() + 2 * arguments.seconds
    while time.perf_counter() < until or len(times[0]) < 7:
        # Neither always goes first: the second finds warmer caches.
        for which in ((0, 1), (1, 0))[len(times[0]) % 2]:
            times[which].append((old, new)[which].time())
    ratio = statistics.median(a / b for a, b in zip(*times))
    kernel = new.library.kfa_last_kernel_name().decode()
    medians = [statistics.median(t) / 1e3 for t in times]
    print(f"{name:34} {medians[0]:11.1f} {medians[1]:11.1f} {ratio:6.3f}  {same:6}  {kernel}", flush=True)


def main():
    libraries = [load(path) for path in (arguments.old, arguments.new)]
    print(f"{'problem':34} {'old us':>11} {'new us':>11} {'ratio':>6}  bits    kernel")
    heads = {"32/8/128": (32, 8, 128), "32/32/128": (32, 32, 128), "32/8/64": (32, 8, 64)}
    wanted = arguments.only.split(",")
    for phase, mode, rows, lengths in [
        ("decode", FLASH, lambda s: 1, (128, 512, 2048, 8192)),
        ("prefill", FLASH, lambda s: s, (128, 512, 2048)),
        ("standard", STANDARD, lambda s: 1, (512, 2048)),
        ("standard", STANDARD, lambda s: s, (512,)),
    ]:
        if phase not in wanted:
            continue
        for label, sizes in heads.items():
            for length in lengths:
                for dtype in (FP32, FP16) if mode == FLASH else (FP32,):
                    name = f"{phase} {label} q{rows(length)} kv{length} {'fp32' if dtype == FP32 else 'fp16 cache'}"
                    row(name, libraries, 1, rows(length), length, *sizes, dtype, mode)


main()
