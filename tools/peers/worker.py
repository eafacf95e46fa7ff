"""One implementation of attention, or the ceilings, in a process of its own: tools/bench_cpu.py
starts it, sends one JSON line per command to its standard input and reads one per answer.

Each implementation lays the same values out as it likes best. Where it can be called in several
ways, all are tried when a shape is set up and the fastest is kept ("variant").
"""

import ctypes as c
import importlib.metadata
import json
import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
HUGE = 2 << 20
NUMPY = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


class Unsupported(Exception):
    """The implementation does not serve the request, and why."""


# --- memory and inputs -----------------------------------------------------------------------------


def allocate(shape, dtype, pages):
    """An uninitialised array on pages of the kind asked for: "thp" or "4k"."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, size + HUGE)
    memory.madvise(mmap.MADV_HUGEPAGE if pages == "thp" else mmap.MADV_NOHUGEPAGE)
    skip = -c.addressof(c.c_char.from_buffer(memory)) % HUGE
    return np.frombuffer(memory, dtype, int(np.prod(shape)), skip).reshape(shape)


def cast(array, kind):
    """float32 values as another element type; bfloat16 as its bits."""
    if kind == "bf16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return array.astype(NUMPY[kind], copy=False)


def uncast(array):
    """An output as float64; uint16 are bfloat16's bits."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


class Problem:
    """A shape, its inputs (token-major float32) and how this worker is to lay them out."""

    def __init__(self, message):
        self.__dict__.update(message["shape"])
        self.copies, self.pages = message["copies"], message["pages"]
        self.query_kind, self.cache_kind = message["kinds"]
        data = np.memmap(message["inputs"], np.float32, "r")
        sizes = [self.q_len * self.heads * self.dim] + [self.kv_len * self.kv_heads * self.dim] * 2
        q, k, v = np.split(data[: sum(sizes)], np.cumsum(sizes)[:-1])
        self.q = q.reshape(self.q_len, self.heads, self.dim)
        self.k, self.v = (x.reshape(self.kv_len, self.kv_heads, self.dim) for x in (k, v))
        self.group = self.heads // self.kv_heads

    def query(self, head_major=False):
        source = self.q.transpose(1, 0, 2) if head_major else self.q
        array = allocate(source.shape, NUMPY[self.query_kind], self.pages)
        array[:] = cast(source, self.query_kind)
        return array

    def output(self, head_major=False):
        shape = (self.heads, self.q_len) if head_major else (self.q_len, self.heads)
        array = allocate((*shape, self.dim), NUMPY[self.query_kind], self.pages)
        array[:] = 0x7FC0 if array.dtype == np.uint16 else np.nan
        return array

    def cache(self, head_major=False, capacity=None):
        """Pairs of key and value caches, one per copy; slots from kv_len on are NaN."""
        rows = capacity or self.kv_len
        pairs = []
        for _ in range(self.copies):
            pair = []
            for source in (self.k, self.v):
                if head_major:
                    source = source.transpose(1, 0, 2)
                shape = (self.kv_heads, rows, self.dim) if head_major else (rows, self.kv_heads, self.dim)
                array = allocate(shape, NUMPY[self.cache_kind], self.pages)
                used, spare = (array[:, : self.kv_len], array[:, self.kv_len :]) if head_major else (
                    array[: self.kv_len], array[self.kv_len :])
                used[:] = cast(source, self.cache_kind)
                spare[...] = 0x7FC0 if array.dtype == np.uint16 else np.nan
                pair.append(array)
            pairs.append(pair)
        return pairs


class Case:
    """A shape ready to run: `calls`, one per copy of the cache, and what they computed."""

    def __init__(self, calls, output, reset=None):
        self.calls = calls
        self.output = output  # -> [q_len, heads, dim]
        self.reset = reset  # undoes what calls did to the cache; not timed


# --- implementations: `variants` yields (name, function that makes a Case) -------------------------


class Kfa:
    """Ours, through the C API."""

    def __init__(self, threads):
        sys.path.insert(0, str(HERE.parent))
        import kfa

        self.kfa = kfa
        self.kinds = {"f32": kfa.FP32, "f16": kfa.FP16, "bf16": kfa.BF16}
        kfa.check(kfa.lib.kfa_set_num_threads(threads))
        self.version = kfa.lib.kfa_build_info().decode()

    def variants(self, p):
        yield "", lambda: self.case(p)

    def describe(self, p, q, out, key, value):
        d = self.kfa.Desc()
        self.kfa.check(self.kfa.lib.kfa_attention_desc_init_sized(c.byref(d), c.sizeof(d)))
        d.mode = {"auto": self.kfa.AUTO, "standard": self.kfa.STANDARD}[p.mode]
        d.q_len, d.kv_len, d.heads, d.kv_heads, d.head_dim = p.q_len, p.kv_len, p.heads, p.kv_heads, p.dim
        for name, array, kind in [("query", q, p.query_kind), ("key", key, p.cache_kind),
                                  ("value", value, p.cache_kind), ("output", out, p.query_kind)]:
            rows, heads, dim = array.shape
            setattr(d, name, self.kfa.View(array.ctypes.data, self.kinds[kind], 0, rows * heads * dim, heads * dim, dim))
        return d

    def case(self, p):
        q, out, cache = p.query(), p.output(), p.cache(capacity=p.kv_len + 64)
        descs = [self.describe(p, q, out, *pair) for pair in cache]
        try:
            workspace = allocate((max(1, self.kfa.workspace_size(descs[0])),), np.uint8, p.pages)
        except self.kfa.Error as error:
            if error.status == self.kfa.UNSUPPORTED:
                raise Unsupported(error.message) from None
            raise
        for d in descs:
            d.workspace, d.workspace_size = workspace.ctypes.data, workspace.size
        forward, check = self.kfa.lib.kfa_attention_forward, self.kfa.check
        calls = [lambda r=c.byref(d): check(forward(r)) for d in descs]
        case = Case(calls, lambda: out)
        case.keep = cache, q, descs, workspace
        return case

    def detail(self):
        return self.kfa.last_kernel()

    def latency(self, message):
        """Nanoseconds of calls in a C loop: no interpreter between them."""
        p = Problem(message)
        case = self.case(p)
        ceilings, descs = load_ceilings(), case.keep[2]
        array = (c.c_void_p * len(descs))(*[c.addressof(d) for d in descs])
        times = (c.c_double * message["calls"])()
        function = c.cast(self.kfa.lib.kfa_attention_forward, c.c_void_p)
        for _ in range(2):  # the first time to warm up
            if ceilings.time_calls(function, array, len(descs), message["calls"], times):
                raise RuntimeError(self.kfa.lib.kfa_last_error_message().decode())
        return list(times)

    def memory(self, message):
        """Bytes by which one call raises this process's peak: workspace and scratch."""
        warm = Problem(dict(message, shape=dict(message["shape"], q_len=2, kv_len=2)))
        case = self.case(warm)
        case.calls[0]()  # starting threads is no score memory
        p = Problem(message)
        q, out, (pair,) = p.query(), p.output(), p.cache()
        d = self.describe(p, q, out, *pair)
        for line in open("/proc/self/maps"):  # nor is loading code
            span, access = line.split()[:2]
            if access[0] == "r" and " /" in line:
                begin, end = (int(x, 16) for x in span.split("-"))
                c.CDLL(None).madvise(c.c_void_p(begin), c.c_size_t(end - begin), 22)  # MADV_POPULATE_READ
        size = self.kfa.workspace_size(d)
        workspace = allocate((max(1, size),), np.uint8, "4k")
        d.workspace, d.workspace_size = workspace.ctypes.data, workspace.size
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_memory()
        self.kfa.forward(d)
        return dict(bytes=peak_memory() - before, workspace=size, kernel=self.kfa.last_kernel())


def peak_memory():
    line = next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


class OnnxRuntime:
    """com.microsoft GroupQueryAttention; past and present share one buffer, so no cache is copied."""

    def __init__(self, threads):
        import onnx
        import onnxruntime

        self.onnx, self.ort, self.threads = onnx, onnxruntime, threads
        onnxruntime.set_default_logger_severity(3)
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def variants(self, p):
        if p.cache_kind != p.query_kind or p.query_kind == "bf16":
            raise Unsupported("GroupQueryAttention takes query and cache of one type, f32 or f16")
        yield "gqa", lambda: self.case(p)

    def model(self, p):
        helper, types = self.onnx.helper, self.onnx.TensorProto
        real = types.FLOAT if p.query_kind == "f32" else types.FLOAT16
        cache = [1, p.kv_heads, p.kv_len + 64, p.dim]
        inputs = [("query", real, [1, p.q_len, p.heads * p.dim]), ("key", real, [1, p.q_len, p.kv_heads * p.dim]),
                  ("value", real, [1, p.q_len, p.kv_heads * p.dim]), ("past_key", real, cache),
                  ("past_value", real, cache), ("seqlens_k", types.INT32, [1]), ("total", types.INT32, [])]
        outputs = [("output", real, [1, p.q_len, p.heads * p.dim]), ("present_key", real, cache), ("present_value", real, cache)]
        node = helper.make_node("GroupQueryAttention", [x[0] for x in inputs], [x[0] for x in outputs],
                                domain="com.microsoft", num_heads=p.heads, kv_num_heads=p.kv_heads)
        infos = [[helper.make_tensor_value_info(*x) for x in some] for some in (inputs, outputs)]
        graph = helper.make_graph([node], "attention", *infos)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    def case(self, p):
        options = self.ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        session = self.ort.InferenceSession(self.model(p), options, providers=["CPUExecutionProvider"])
        wrap = self.ort.OrtValue.ortvalue_from_numpy
        q, out = p.query().reshape(1, p.q_len, -1), p.output().reshape(1, p.q_len, -1)
        cache = p.cache(head_major=True, capacity=p.kv_len + 64)
        new = [np.ascontiguousarray(cast(x[p.kv_len - p.q_len :], p.query_kind)).reshape(1, p.q_len, -1) for x in (p.k, p.v)]
        fixed = {"query": q, "key": new[0], "value": new[1], "seqlens_k": np.array([p.kv_len - 1], np.int32),
                 "total": np.array(p.kv_len, np.int32)}
        fixed = {name: wrap(array) for name, array in fixed.items()}
        output, bindings = wrap(out), []
        for pair in cache:
            binding = session.io_binding()
            for name, value in fixed.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output("output", output)
            for name, array in zip(("key", "value"), pair):
                value = wrap(array[None])
                if value.data_ptr() != array.ctypes.data:
                    raise RuntimeError("onnxruntime copied the cache; it was to be shared")
                binding.bind_ortvalue_input("past_" + name, value)
                binding.bind_ortvalue_output("present_" + name, value)
            bindings.append(binding)
        run = session.run_with_iobinding
        case = Case([lambda b=b: run(b) for b in bindings], lambda: output.numpy().reshape(p.q_len, p.heads, p.dim))
        case.keep = session, cache, fixed, q, out
        return case


class Torch:
    """scaled_dot_product_attention on the CPU."""

    def __init__(self, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.version = f"torch {torch.__version__}"

    def variants(self, p):
        if p.cache_kind != p.query_kind:
            raise Unsupported("scaled_dot_product_attention takes query and cache of one type")
        yield "token-major", lambda: self.case(p, False)
        yield "head-major", lambda: self.case(p, True)

    def case(self, p, head_major):
        # In mode "grouped" the caller makes a group's heads the rows of one query, which only decode
        # permits: the kernel then reads each key/value head once.
        grouped = p.mode == "grouped"

        def wrap(array):
            t = self.torch.from_numpy(array)
            return t.view(self.torch.bfloat16) if array.dtype == np.uint16 else t

        q = wrap(p.query(head_major))
        q = (q if head_major else q.transpose(0, 1)).unsqueeze(0)
        if grouped:
            q = q.reshape(1, p.kv_heads, p.group, p.dim)
        cache = [[(x if head_major else x.transpose(0, 1)).unsqueeze(0) for x in map(wrap, pair)]
                 for pair in p.cache(head_major)]
        options = dict(is_causal=p.q_len > 1, enable_gqa=p.group > 1 and not grouped)
        function = self.torch.nn.functional.scaled_dot_product_attention
        results = {}

        def call(k, v):
            results["last"] = function(q, k, v, **options)

        def output():
            out = results["last"].reshape(p.heads, p.q_len, p.dim).transpose(0, 1)
            return out.to(self.torch.float32).numpy()

        return Case([lambda k=k, v=v: call(k, v) for k, v in cache], output)


class OpenVino:
    """ScaledDotProductAttention; stateful with its own key/value cache, or plain on given tensors."""

    def __init__(self, threads):
        import openvino

        self.ov, self.threads = openvino, threads
        self.core = openvino.Core()
        self.version = f"openvino {openvino.__version__.split('-')[0]}"

    def variants(self, p):
        if p.query_kind != "f32" or p.cache_kind == "bf16":
            raise Unsupported("measured with f32 inference precision and an f32 or f16 cache")
        yield "stateful", lambda: self.stateful(p)
        if p.cache_kind == "f32" and (p.group == 1 or p.q_len > 1):
            yield "plain", lambda: self.plain(p)

    def compile(self, model, p):
        return self.core.compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": p.cache_kind, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0})

    def plain(self, p):
        ops = self.ov.opset13
        rows = p.q_len, p.kv_len, p.kv_len
        parameters = [ops.parameter([1, p.heads, n, p.dim], np.float32) for n in rows]
        result = ops.scaled_dot_product_attention(*parameters, causal=p.q_len > 1)
        compiled = self.compile(self.ov.Model([ops.result(result)], parameters), p)
        q, out, cache = p.query(True), p.output(True), p.cache(head_major=True)
        if p.group > 1:  # it has no grouped form: key/value heads are repeated beforehand, untimed
            cache = [[np.repeat(x, p.group, axis=0) for x in pair] for pair in cache]
        requests = []
        for pair in cache:
            request = compiled.create_infer_request()
            for i, array in enumerate((q, *pair)):
                request.set_input_tensor(i, self.ov.Tensor(array[None], shared_memory=True))
            request.set_output_tensor(0, self.ov.Tensor(out[None], shared_memory=True))
            requests.append(request)
        case = Case([request.infer for request in requests], lambda: out.transpose(1, 0, 2))
        case.keep = compiled, cache, q
        return case

    def stateful(self, p):
        ops = self.ov.opset13
        q_in = ops.parameter([1, -1, p.heads, p.dim], np.float32)
        kv_in = [ops.parameter([1, -1, p.kv_heads, p.dim], np.float32) for _ in "kv"]
        beam = ops.parameter([1], np.int32)
        order = ops.constant(np.array([0, 2, 1, 3], np.int32))
        states, sinks = [], []
        for name, new in zip("kv", kv_in):
            empty = ops.constant(np.zeros((1, p.kv_heads, 0, p.dim), np.float32))
            past = ops.read_value(empty, name, np.float32, self.ov.PartialShape([1, p.kv_heads, -1, p.dim]))
            past = ops.gather(past, beam, ops.constant(np.int32(0)))
            whole = ops.concat([past, ops.transpose(new, order)], 2)
            sinks.append(ops.assign(whole, name))
            if p.group > 1:
                ones = ops.constant(np.ones((1, 1, p.group, 1, 1), np.float32))
                whole = ops.multiply(ops.unsqueeze(whole, ops.constant(np.int64(2))), ones)
                whole = ops.reshape(whole, ops.constant([0, p.heads, -1, p.dim], np.int64), True)
            states.append(whole)
        attended = ops.scaled_dot_product_attention(ops.transpose(q_in, order), *states, causal=p.q_len > 1)
        result = ops.transpose(attended, order)
        compiled = self.compile(self.ov.Model([ops.result(result)], sinks, [q_in, *kv_in, beam]), p)
        layers = [op.get_rt_info()["layerType"] for op in compiled.get_runtime_model().get_ops()]
        fused = not any("Softmax" in str(getattr(layer, "value", layer)) for layer in layers)
        q = p.query()
        new = [np.array(x[p.kv_len - p.q_len :])[None] for x in (p.k, p.v)]
        given = q[None], *new, np.zeros(1, np.int32)
        requests = [compiled.create_infer_request() for _ in range(p.copies)]
        for request in requests:
            for i, array in enumerate(given):
                request.set_input_tensor(i, self.ov.Tensor(array, shared_memory=True))
        past = [np.ascontiguousarray(x[: p.kv_len - p.q_len].transpose(1, 0, 2), np.float32)[None] for x in (p.k, p.v)]
        shorter = 0 if p.q_len > 1 else min(8, max(0, p.kv_len // 64 - 1))
        calls_since = [0] * len(requests)

        def fill(request, drop):
            for state in request.query_state():
                if p.q_len > 1:
                    state.reset()
                else:
                    array = past["kv".index(state.name)]
                    state.state = self.ov.Tensor(np.ascontiguousarray(array[:, :, : array.shape[2] - drop]))

        def reset():
            # Every call appends a token: start a little short, so that lengths are right on average.
            for i, request in enumerate(requests):
                if calls_since[i] > 2 * shorter:
                    fill(request, shorter)
                    request.infer()  # the first one makes room
                    calls_since[i] = 1

        def call(i):
            if p.q_len > 1:
                fill(requests[i], 0)
            requests[i].infer()
            calls_since[i] += 1

        fill(requests[0], 0)
        requests[0].infer()
        first = np.array(requests[0].get_output_tensor(0).data)[0]
        calls_since[:] = [1 << 30] * len(requests)
        reset()
        case = Case([lambda i=i: call(i) for i in range(len(requests))], lambda: first, reset)
        case.keep, case.fused = (compiled, given), fused
        return case


class Ggml:
    """GGML_OP_FLASH_ATTN_EXT."""

    def __init__(self, threads):
        self.lib, self.threads = c.CDLL(os.environ["GGML_PEER"]), threads
        self.lib.ggml_peer_new.restype = c.c_void_p
        self.lib.ggml_peer_new.argtypes = [c.c_int] * 7 + [c.c_int64] * 2 + [c.c_float] + [c.c_void_p] * 3
        self.lib.ggml_peer_run.argtypes = [c.c_void_p] * 3
        self.lib.ggml_peer_free.argtypes = [c.c_void_p]
        self.version = os.environ["GGML_VERSION"]

    def variants(self, p):
        if p.query_kind != "f32" or p.cache_kind == "bf16":
            raise Unsupported("flash_attn_ext takes an f32 query; measured with an f32 or f16 cache")
        yield "token-major", lambda: self.case(p, False)
        yield "head-major", lambda: self.case(p, True)

    def case(self, p, head_major):
        q, out, cache, mask = p.query(), p.output(), p.cache(head_major), None
        if p.q_len > 1:
            mask = np.triu(np.full((p.q_len, p.kv_len), -np.inf, np.float16), p.kv_len - p.q_len + 1)
        strides = (p.dim, p.kv_len * p.dim) if head_major else (p.kv_heads * p.dim, p.dim)
        peer = self.lib.ggml_peer_new(self.threads, p.q_len, p.kv_len, p.heads, p.kv_heads, p.dim, p.cache_kind == "f16",
                                      *strides, p.dim**-0.5, q.ctypes.data, mask.ctypes.data if mask is not None else None,
                                      out.ctypes.data)
        run = self.lib.ggml_peer_run
        pointers = [(k.ctypes.data, v.ctypes.data) for k, v in cache]
        case = Case([lambda k=k, v=v: run(peer, k, v) for k, v in pointers], lambda: out)
        case.keep = q, cache, mask, Freed(self.lib.ggml_peer_free, peer)
        return case


class Candle:
    """candle-nn's flash attention, and softmax(QK)V of its tensors."""

    def __init__(self, threads):
        self.lib = c.CDLL(os.environ["CANDLE_PEER"])
        self.lib.candle_peer_new.restype = c.c_void_p
        self.lib.candle_peer_new.argtypes = [c.c_size_t] * 6 + [c.c_bool] + [c.c_void_p] * 3
        self.lib.candle_peer_run.argtypes = [c.c_void_p, c.c_size_t, c.c_void_p]
        self.lib.candle_peer_free.argtypes = [c.c_void_p]
        self.version = os.environ["CANDLE_VERSION"]

    def variants(self, p):
        if (p.query_kind, p.cache_kind) != ("f32", "f32"):
            raise Unsupported("measured in f32 alone")
        yield "flash", lambda: self.case(p, True)
        if 4 * p.heads * p.q_len * p.kv_len < 1 << 30:
            yield "unfused", lambda: self.case(p, False)

    def case(self, p, flash):
        q, k, v = (np.ascontiguousarray(x) for x in (p.q, p.k, p.v))
        peer = self.lib.candle_peer_new(p.q_len, p.kv_len, p.heads, p.kv_heads, p.dim, p.copies, flash,
                                        q.ctypes.data, k.ctypes.data, v.ctypes.data)
        run = self.lib.candle_peer_run

        def output():
            out = np.empty((p.heads, p.q_len, p.dim), np.float32)
            if run(peer, 0, out.ctypes.data):
                raise RuntimeError("candle failed")
            return out.transpose(1, 0, 2)

        case = Case([lambda i=i: run(peer, i, None) for i in range(p.copies)], output)
        case.keep = Freed(self.lib.candle_peer_free, peer)
        return case


class Freed:
    """Frees a handle when the case goes."""

    def __init__(self, free, handle):
        self.free, self.handle = free, handle

    def __del__(self):
        self.free(self.handle)


# --- ceilings --------------------------------------------------------------------------------------


def load_ceilings():
    lib = c.CDLL(os.environ["CEILINGS"])
    lib.ceiling_level.restype = c.c_char_p
    lib.ceiling_fma.argtypes, lib.ceiling_fma.restype = [c.c_char_p, c.c_int, c.c_double], c.c_double
    lib.ceiling_read.argtypes, lib.ceiling_read.restype = [c.c_void_p, c.c_int64, c.c_int, c.c_int], c.c_double
    lib.time_calls.argtypes = [c.c_void_p, c.c_void_p, c.c_int64, c.c_int64, c.c_void_p]
    return lib


class Ceilings:
    """FMA peak and plain reads from memory."""

    def __init__(self, threads):
        self.lib, self.threads, self.buffers = load_ceilings(), threads, {}
        self.levels = []
        while name := self.lib.ceiling_level(len(self.levels)):
            self.levels.append(name.decode())
        self.version = "FMA by " + ", ".join(self.levels)

    def fma(self, milliseconds):
        return {level: self.lib.ceiling_fma(level.encode(), self.threads, milliseconds) for level in self.levels}

    def read(self, pages, size):
        """The better of reading in one stream and in two."""
        if pages not in self.buffers:
            self.buffers[pages] = allocate((size,), np.uint8, pages)
            self.buffers[pages][:] = 1
        data = self.buffers[pages].ctypes.data
        return max(self.lib.ceiling_read(data, size, self.threads, streams) for streams in (1, 2))


# --- commands --------------------------------------------------------------------------------------


class Worker:
    IMPLEMENTATIONS = {"kfa": Kfa, "onnxruntime": OnnxRuntime, "torch": Torch, "openvino": OpenVino,
                       "ggml": Ggml, "candle": Candle, "ceilings": Ceilings}

    def __init__(self, name, threads):
        self.implementation = self.IMPLEMENTATIONS[name](threads)
        self.case, self.next = None, 0
        self.seconds_per_work = {}  # of each variant, by phase, in the last shape that it ran

    def hello(self, _):
        return dict(version=self.implementation.version)

    def setup(self, message):
        """Makes a shape ready: tries every variant, keeps the fastest, checks it against float64."""
        self.case = None
        p = Problem(message)
        rows = np.load(message["rows"])
        want = np.load(message["want"])
        tried, best = {}, None
        work = p.heads * p.q_len * p.kv_len * p.dim
        prefill = p.q_len > 1
        likely = {name: self.seconds_per_work[prefill, name] * work for name, _ in self.implementation.variants(p)
                  if (prefill, name) in self.seconds_per_work}
        for name, build in self.implementation.variants(p):
            # Hopeless by the last shape: 4 times slower than another way, or no call ends in time.
            if name in likely and (likely[name] > 5 or likely[name] > 0.05 and likely[name] > 4 * min(likely.values())):
                tried[name] = dict(skipped=f"a call would take about {likely[name]:.1f} s")
                continue
            case = build()
            seconds = self.measure_once(case)
            self.seconds_per_work[prefill, name] = seconds / work
            error = float(np.abs(uncast(np.asarray(case.output())[rows]) - want).max())
            tried[name] = dict(ms=seconds * 1e3, error=error if np.isfinite(error) else 1e30)
            if getattr(case, "fused", True) is False:
                tried[name]["note"] = "not fused with its cache"
            if best is None or seconds < best:
                best, self.case, variant = seconds, case, name
            del case
        if best is None:
            raise Unsupported(next(iter(tried.values()))["skipped"])
        self.next = 0
        detail = getattr(self.implementation, "detail", lambda: "")()
        return dict(variant=variant, error=tried[variant]["error"], tried=tried, detail=detail)

    @staticmethod
    def measure_once(case):
        """Seconds of a call: the median of some after a warm-up, over the copies in turn."""
        times, begin = [], time.perf_counter()
        for i in range(10):
            at = time.perf_counter()
            case.calls[i % len(case.calls)]()
            times.append(time.perf_counter() - at)
            if time.perf_counter() - begin > 0.1:
                break
        return float(np.median(times[1:] or times))

    def time(self, message):
        """Nanoseconds of calls for about `milliseconds`; cold ones go through the copies in turn."""
        case, cold = self.case, message["cold"]
        if case.reset:
            case.reset()
        calls = case.calls if cold else case.calls[:1]
        self.next %= len(calls)
        clock, times = time.perf_counter_ns, []
        warm = 0 if message["long"] else 1 if cold else 3
        limit = message["milliseconds"] * 1_000_000
        used, begin = time.process_time(), clock()
        while True:
            at = clock()
            calls[self.next]()
            end = clock()
            self.next = (self.next + 1) % len(calls)
            if warm > 0:
                warm -= 1
            else:
                times.append(end - at)
            if times and (end - begin > limit or len(times) >= message["calls"]):
                break
        return dict(ns=times, cpus=(time.process_time() - used) * 1e9 / max(1, clock() - begin))

    def drop(self, _):
        self.case = None
        return {}

    def ceiling(self, message):
        answer = {}
        if message.get("fma"):
            answer["fma"] = self.implementation.fma(message["fma"])
        for pages in message.get("read", ()):
            answer[pages] = self.implementation.read(pages, message["bytes"])
        return answer

    def latency(self, message):
        return dict(ns=self.implementation.latency(message))

    def memory(self, message):
        return self.implementation.memory(message)


def main(name, threads):
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    worker = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            worker = worker or Worker(name, int(threads))
            answer = getattr(worker, message["command"])(message)
        except Unsupported as reason:
            answer = dict(unsupported=str(reason))
        except Exception as error:  # the parent reports it and goes on with the others
            answer = dict(failed=f"{type(error).__name__}: {error}".strip().splitlines()[0][:300])
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
