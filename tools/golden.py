#!/usr/bin/env python3
"""Writes src/reference/tests/golden.json: attention as independent references compute it.

The float64 oracle is held against the onnx package's evaluator of Attention-25, PyTorch's SDPA and
FlexAttention, and the block types of gguf's own dequantisation. Needs the packages onnx 1.23, torch
2.6 and gguf 0.19 (pip install onnx torch gguf); nothing else in the tree does.
"""

import json
import pathlib

import gguf
import numpy as np
import onnx.helper
import torch
from onnx.reference import ReferenceEvaluator
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

OUT = pathlib.Path(__file__).parent.parent / "src/reference/tests/golden.json"
WORD = (1 << 64) - 1


def number(seed, n):
    """Number n of a stream: a multiple of 1/128 from -2 to 2. The Rust test has the same."""
    x = (seed * 1000003 + n) * 0x9E3779B97F4A7C15 & WORD
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93 & WORD
    return ((x >> 40) % 513 - 256) / 128


def tensor(seed, *shape):
    return np.array([number(seed, n) for n in range(int(np.prod(shape)))]).reshape(shape)


class Case:
    """A problem of [batch, rows, heads, dim] tensors from streams 1, 2 and 3, and its fields."""

    def __init__(self, name, batch=2, q_len=3, kv_len=7, heads=4, kv_heads=2, head_dim=4,
                 value_head_dim=2, **fields):
        self.fields = dict(name=name, batch=batch, q_len=q_len, kv_len=kv_len, heads=heads,
                           kv_heads=kv_heads, head_dim=head_dim, value_head_dim=value_head_dim,
                           **fields)
        self.batch, self.q_len, self.kv_len, self.heads = batch, q_len, kv_len, heads
        self.query = tensor(1, batch, q_len, heads, head_dim)
        self.key = tensor(2, batch, kv_len, kv_heads, head_dim)
        self.value = tensor(3, batch, kv_len, kv_heads, value_head_dim)

    def head_major(self):
        return [x.transpose(0, 2, 1, 3) for x in (self.query, self.key, self.value)]

    def mask(self, values):
        """A mask [batch, heads, q_len, kv_len] of the problem, from the values' broadcast."""
        shape = (self.batch, self.heads, self.q_len, self.kv_len)
        values = np.broadcast_to(values, shape)
        kind = "boolean" if values.dtype == bool else "additive"
        data = ["-inf" if x == -np.inf else float(x) for x in values.flat]
        self.fields["mask"] = dict(kind=kind, data=data)
        return values

    def done(self, output, lse=None):
        """output and lse are [batch, heads, q_len, ...]."""
        digits = lambda x: [float(f"{n:.12g}") for n in np.asarray(x).flat]
        self.fields["output"] = digits(np.asarray(output).transpose(0, 2, 1, 3))
        if lse is not None:
            self.fields["lse"] = digits(lse)
        return self.fields


def onnx_case(case, mask=None, kv_lens=None, **attributes):
    names, inputs = ["Q", "K", "V"], dict(zip("QKV", case.head_major()))
    if mask is not None:
        inputs["mask"] = mask
    if kv_lens is not None:
        inputs["lens"] = np.array(kv_lens, dtype=np.int64)
    names += ["mask" if mask is not None else "", "", "", "lens" if kv_lens else ""]
    while not names[-1]:
        names.pop()
    node = onnx.helper.make_node("Attention", names, ["Y"], softmax_precision=11, **attributes)
    types = {np.dtype("float64"): 11, np.dtype("int64"): 7, np.dtype("bool"): 9}
    infos = [onnx.helper.make_tensor_value_info(n, types[x.dtype], x.shape)
             for n, x in inputs.items()]
    result = onnx.helper.make_tensor_value_info("Y", 11, None)
    graph = onnx.helper.make_graph([node], "attention", infos, [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 25)])
    return case.done(ReferenceEvaluator(model).run(None, inputs)[0])


def onnx_cases():
    yield onnx_case(Case("onnx plain", causal="none"))
    # The evaluator takes the square root of the scale in float32: one that has an exact root.
    yield onnx_case(Case("onnx softcap and scale", causal="none", softcap=0.75, scale=0.25),
                    softcap=0.75, scale=0.25)
    yield onnx_case(Case("onnx causal over lengths", kv_lens=[7, 2]), is_causal=1, kv_lens=[7, 2])
    yield onnx_case(Case("onnx causal without keys", kv_lens=[0, 4]), is_causal=1, kv_lens=[0, 4])
    yield onnx_case(Case("onnx window", window=3, kv_lens=[7, 6]),
                    is_causal=1, left_window_size=2, kv_lens=[7, 6])
    yield onnx_case(Case("onnx both windows", window=3, window_right=1, causal="none",
                         kv_lens=[6, 5]),
                    left_window_size=2, right_window_size=1, kv_lens=[6, 5])
    case = Case("onnx boolean mask", causal="none")
    mask = case.mask(tensor(4, 1, 4, 3, 7) > -0.5)
    yield onnx_case(case, mask=mask)
    case = Case("onnx additive mask, softcap, causal", softcap=1.5, kv_lens=[7, 7])
    values = tensor(5, 2, 1, 3, 7)
    values[values > 1.5] = -np.inf
    yield onnx_case(case, mask=case.mask(values), softcap=1.5, is_causal=1, kv_lens=[7, 7])
    case = Case("onnx row hidden by its mask", causal="none")
    mask = np.ones((1, 1, 3, 7), dtype=bool)
    mask[:, :, 1] = False
    yield onnx_case(case, mask=case.mask(mask))


def torch_tensors(case):
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in case.head_major()]


def sdpa_cases():
    case = Case("sdpa causal is top-left", causal="top-left")
    yield case.done(scaled_dot_product_attention(*torch_tensors(case), is_causal=True,
                                                 enable_gqa=True))
    case = Case("sdpa multi-query", causal="none", kv_heads=1, heads=3, scale=-0.3)
    yield case.done(scaled_dot_product_attention(*torch_tensors(case), scale=-0.3,
                                                 enable_gqa=True))
    # A sink is a further key whose score is given and whose value is 0.
    sinks = [0.5, -1.0, 2.0, 0.0]
    case = Case("sdpa sinks", causal="none", sinks=sinks)
    query, key, value = torch_tensors(case)
    key, value = (torch.nn.functional.pad(x, (0, 0, 0, 1)) for x in (key, value))
    mask = torch.zeros(1, 4, 1, 8, dtype=torch.float64)
    mask[0, :, 0, 7] = torch.tensor(sinks)
    yield case.done(scaled_dot_product_attention(query, key, value, mask, enable_gqa=True))


def flex_case(case, score=None, see=None):
    blocks = see and create_block_mask(see, case.batch, case.heads, case.q_len, case.kv_len, "cpu")
    output, lse = flex_attention(*torch_tensors(case), score_mod=score, block_mask=blocks,
                                 enable_gqa=True, return_lse=True)
    return case.done(output, lse)


def flex_cases():
    """Rows sit at kv_len - q_len + i, so 4 is added to the index of a row."""
    yield flex_case(Case("flex causal"), see=lambda b, h, q, k: k <= q + 4)
    yield flex_case(Case("flex window", window=2), see=lambda b, h, q, k:
                    (k <= q + 4) & (k > q + 4 - 2))
    yield flex_case(Case("flex chunk", chunk=5), see=lambda b, h, q, k:
                    (k <= q + 4) & (k // 5 == (q + 4) // 5))
    yield flex_case(Case("flex starts", kv_starts=[3, 0]), see=lambda b, h, q, k:
                    (k <= q + 4) & (k >= 3 - 3 * b))
    ends = [0, 4, 4, 4, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7]
    yield flex_case(Case("flex spans", q_len=7, span_ends=ends),
                    see=lambda b, h, q, k: (k <= q)
                    | (b == 0) & (1 <= q) & (q < 4) & (k < 4)
                    | (b == 1) & (3 <= q) & (q < 7) & (k < 7))
    yield flex_case(Case("flex spans in a window", q_len=7, window=2, span_ends=ends),
                    see=lambda b, h, q, k: (k > q - 2) & ((k <= q)
                    | (b == 0) & (1 <= q) & (q < 4) & (k < 4)
                    | (b == 1) & (3 <= q) & (q < 7) & (k < 7)))
    slopes = [0.5, 0.25, 0.125, 1.0]
    per_head = torch.tensor(slopes, dtype=torch.float64)
    alibi = lambda s, b, h, q, k: s - per_head[h] * (q + 4 - k).abs()
    yield flex_case(Case("flex alibi", causal="none", alibi_slopes=slopes), score=alibi)
    yield flex_case(Case("flex alibi after softcap", softcap=1.25, alibi_slopes=slopes),
                    score=lambda s, b, h, q, k: alibi(1.25 * torch.tanh(s / 1.25), b, h, q, k),
                    see=lambda b, h, q, k: k <= q + 4)


def storage():
    """What stored bytes mean: every 8-bit float, and two blocks of each of ggml's types."""
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        yield dict(type=name, bytes=codes.tolist(), values=plain(codes.view(dtype).double()))
    kinds = gguf.GGMLQuantizationType
    for name, kind in (("q8_0", kinds.Q8_0), ("q4_0", kinds.Q4_0), ("q4_1", kinds.Q4_1),
                       ("q5_0", kinds.Q5_0), ("q5_1", kinds.Q5_1), ("iq4_nl", kinds.IQ4_NL)):
        size = gguf.GGML_QUANT_SIZES[kind][1]
        # Scale and offset lie first: an exponent that float16 has in each high byte.
        data = np.array([int(number(7, n) * 128) & 255 for n in range(2 * size)], dtype=np.uint8)
        for start in (0, size):
            data[[start + 1, start + 3]] = [0x34, 0xB8] if "_1" in name else [0x34, data[start + 3]]
        yield dict(type=name, bytes=data.tolist(), values=plain(gguf.quants.dequantize(data, kind)))


def plain(values):
    values = np.asarray(values, dtype=float)
    return [x if np.isfinite(x) else str(x) for x in values.tolist()]


def main():
    lines = lambda items: "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"
    cases = [*onnx_cases(), *sdpa_cases(), *flex_cases()]
    OUT.write_text(f'{{"cases": {lines(cases)},\n"storage": {lines(storage())}}}\n')
    print(f"{len(cases)} cases, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
