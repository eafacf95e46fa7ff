#!/usr/bin/env python3
"""Writes wgmma_ops.cuh beside itself: wgmma names every register of its accumulator, so each width of
it is a function of its own, chosen by the size of the array that it is given."""

from pathlib import Path

SCORES = (80, 128)  # keys of a block
OUTPUTS = (64, 128, 256)  # head_dim classes
TYPES = {"bf16": "__nv_bfloat16", "f16": "__half"}


def function(kind, n, from_registers):
    count = n // 2
    accumulator = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(c[{i}])' for i in range(count))
    if from_registers:  # B is V as it lies, keys x head_dim: transposed
        name, a_type, b = "wgmma_registers", "const uint32_t (&a)[4]", count + 4
        a = "{%" + f"{count}, %{count + 1}, %{count + 2}, %{count + 3}" + "}"
        inputs, tail = '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep)', "1, 1, 1"
    else:
        name, a_type, a, b = "wgmma_shared", "uint64_t a", f"%{count}", count + 1
        inputs, tail = '"l"(a), "l"(b), "r"(keep)', "1, 1, 0, 0"
    return f"""__device__ __forceinline__ void {name}({TYPES[kind]}, float (&c)[{count}], {a_type}, uint64_t b, int keep) {{
  asm volatile(
      "{{\\n.reg .pred keep;\\nsetp.ne.b32 keep, %{b + 1}, 0;\\n"
      "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{kind}.{kind} {{{accumulator}}}, {a}, %{b}, keep, {tail};\\n}}\\n"
      : {outputs}
      : {inputs});
}}
"""


text = """// Made by make_wgmma_ops.py. c = (keep ? c : 0) + a . b, a warpgroup's 64 rows, 16 deep; `a` from shared
// memory or, four registers a thread, the fragment of a 64 x 16 matrix. The first argument says the type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace kfa {

"""
for kind in TYPES:
    for n in SCORES:
        text += function(kind, n, False)
    for n in OUTPUTS:
        text += function(kind, n, True)
Path(__file__).with_name("wgmma_ops.cuh").write_text(text + "\n}  // namespace kfa\n")
