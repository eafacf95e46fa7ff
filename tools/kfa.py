"""The C API by ctypes, over PyTorch tensors; for tools/gpu_test.py and tools/bench_gpu.py. Where
PyTorch is missing, tools/peers/worker.py fills descriptions over memory of its own."""

import ctypes as c
import os
from pathlib import Path

try:
    import torch
except ImportError:
    torch = None

CPU, CUDA = 1, 2
FP32, FP16, BF16 = 1, 4, 5
AUTO, FLASH, STANDARD = 0, 1, 2
OK, INVALID_ARGUMENT, UNSUPPORTED, NO_DEVICE, CUDA_ERROR = 0, 1, 2, 3, 4
DTYPES = {torch.float32: FP32, torch.float16: FP16, torch.bfloat16: BF16} if torch else {}


class View(c.Structure):
    _fields_ = [
        ("data", c.c_void_p),
        ("dtype", c.c_int32),
        ("reserved", c.c_int32),
        ("batch_stride", c.c_int64),
        ("row_stride", c.c_int64),
        ("head_stride", c.c_int64),
    ]


class Mask(c.Structure):
    _fields_ = [
        ("data", c.c_void_p),
        ("kind", c.c_int32),
        ("dtype", c.c_int32),
        ("batch_stride", c.c_int64),
        ("head_stride", c.c_int64),
        ("row_stride", c.c_int64),
    ]


class Desc(c.Structure):
    _fields_ = (
        [("struct_size", c.c_uint32), ("flags", c.c_uint32)]
        + [(n, c.c_int32) for n in "device device_index mode is_causal batch q_len kv_len heads kv_heads head_dim value_head_dim".split()]
        + [("softmax_scale", c.c_float), ("softcap", c.c_float), ("sliding_window", c.c_int32)]
        + [(n, View) for n in "query key value output".split()]
        + [("lse", c.c_void_p), ("mask", Mask)]
        + [(n, c.c_void_p) for n in "alibi_slopes sinks query_offsets kv_offsets kv_lens page_table".split()]
        + [("page_table_stride", c.c_int64), ("page_size", c.c_int32), ("window_right", c.c_int32)]
        + [(n, c.c_void_p) for n in "key_quant value_quant pos_device stream workspace".split()]
        + [("workspace_size", c.c_size_t)]
        + [(n, c.c_void_p) for n in "q_lens kv_starts cache_index page_offsets value_page_table".split()]
        + [(n, c.c_int32) for n in "pages cache_batch query_rows kv_rows attention_chunk split_keys".split()]
        + [("span_ends", c.c_void_p)]
        + [(n, c.c_int64) for n in "alibi_batch_stride lse_batch_stride lse_head_stride lse_row_stride".split()]
        + [(n, c.c_void_p) for n in "mask_offsets mask_head_factor".split()]
        + [(n, c.c_int32) for n in "mask_columns mask_newest".split()]
        + [(n, c.c_void_p) for n in "norm rope append".split()]
        + [(n, c.c_int32) for n in "threads reserved".split()]
        + [(n, c.c_void_p) for n in "parallel pool".split()]
    )


class MergeDesc(c.Structure):
    _fields_ = (
        [("struct_size", c.c_uint32)]
        + [(n, c.c_int32) for n in "device parts batch q_len heads head_dim reserved".split()]
        + [("outputs", c.POINTER(c.c_void_p)), ("lses", c.POINTER(c.c_void_p))]
        + [(n, c.c_void_p) for n in "output lse stream".split()]
    )


class Tensor(c.Structure):
    _fields_ = [("data", c.c_void_p), ("size", c.c_int64), ("dtype", c.c_int32), ("device", c.c_int32)]


TP = c.POINTER(Tensor)
I = c.c_int32
FLASH_KERNEL = c.CFUNCTYPE(I, TP, TP, TP, TP, I, I, I, I, I, I, c.c_float, c.c_bool, I, c.c_void_p)
MHA_KERNEL = c.CFUNCTYPE(I, I, I, I, I, I, I, I, TP, TP, TP, TP, TP, I, c.c_void_p)


class Error(Exception):
    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


def find_library():
    here = Path(__file__).resolve().parent
    name = "libkuiper_flash_attention.so"
    for path in [os.environ.get("KFA_LIB"), here / name, here.parent / name, here.parent / "target/release" / name]:
        if path and Path(path).exists():
            return str(path)
    raise SystemExit(f"no {name}: build it with cargo build --release, or name it in KFA_LIB")


lib = c.CDLL(find_library())
lib.kfa_attention_desc_init_sized.argtypes = [c.POINTER(Desc), c.c_size_t]
lib.kfa_attention_forward.argtypes = [c.POINTER(Desc)]
lib.kfa_attention_workspace_size.argtypes = [c.POINTER(Desc), c.POINTER(c.c_size_t)]
lib.kfa_attention_explain.argtypes = [c.POINTER(Desc), c.c_char_p, c.c_size_t, c.POINTER(c.c_size_t)]
lib.kfa_attention_merge.argtypes = [c.POINTER(MergeDesc)]
for text in ["kfa_last_error_message", "kfa_last_kernel_name", "kfa_build_info", "kfa_version_string"]:
    getattr(lib, text).restype = c.c_char_p
lib.kfa_get_flash_attention_kernel.restype = FLASH_KERNEL
lib.kfa_get_mha_kernel.restype = MHA_KERNEL
lib.kfa_get_standard_mha_kernel.restype = MHA_KERNEL
lib.kfa_flash_attention_layer_create.argtypes = [I] * 7 + [c.c_float, c.POINTER(c.c_void_p)]
lib.kfa_flash_attention_layer_destroy.argtypes = [c.c_void_p]
for setter in ["set_pos", "set_layer_idx"]:
    getattr(lib, "kfa_flash_attention_layer_" + setter).argtypes = [c.c_void_p, I]
for setter in ["set_input", "set_output"]:
    getattr(lib, "kfa_flash_attention_layer_" + setter).argtypes = [c.c_void_p, I, TP]
lib.kfa_flash_attention_layer_set_stream.argtypes = [c.c_void_p, c.c_void_p]
lib.kfa_flash_attention_layer_forward.argtypes = [c.c_void_p]


def check(status):
    if status != OK:
        raise Error(status, lib.kfa_last_error_message().decode())


def last_kernel():
    return lib.kfa_last_kernel_name().decode()


def view(t):
    """[batch, rows, heads, head_dim] with unit innermost stride; size-1 axes get any stride."""
    assert t.dim() == 4 and (t.stride(3) == 1 or t.size(3) == 1)
    return View(t.data_ptr(), DTYPES[t.dtype], 0, t.stride(0), t.stride(1), t.stride(2))


def tensor(t):
    return Tensor(t.data_ptr(), t.numel(), DTYPES[t.dtype], CUDA if t.is_cuda else CPU)


def desc(q, k, v, out, kv_len=None, causal=True, mode=AUTO, lse=None, pos=None, scale=0.0, stream=None):
    """A description of attention over views; kv_len is k's rows unless said."""
    d = Desc()
    check(lib.kfa_attention_desc_init_sized(c.byref(d), c.sizeof(d)))
    d.device, d.mode, d.is_causal = CUDA, mode, int(causal)
    d.batch, d.q_len, d.heads, d.head_dim = q.shape
    d.kv_len = k.shape[1] if kv_len is None else kv_len
    d.kv_heads = k.shape[2]
    d.softmax_scale = scale
    d.query, d.key, d.value, d.output = view(q), view(k), view(v), view(out)
    d.lse = lse.data_ptr() if lse is not None else None
    d.pos_device = pos.data_ptr() if pos is not None else None
    d.stream = torch.cuda.current_stream().cuda_stream if stream is None else stream
    return d


def workspace_size(d):
    size = c.c_size_t()
    check(lib.kfa_attention_workspace_size(c.byref(d), c.byref(size)))
    return size.value


def explain(d):
    text = c.create_string_buffer(4096)
    check(lib.kfa_attention_explain(c.byref(d), text, len(text), None))
    return text.value.decode()


def give_workspace(d, make=lambda n: torch.empty(n, dtype=torch.uint8, device="cuda")):
    """Sets a workspace of exactly the size asked for; returns it, to be kept alive."""
    n = workspace_size(d)
    w = make(n) if n else None
    d.workspace, d.workspace_size = (w.data_ptr() if n else None), n
    return w


def forward(d):
    check(lib.kfa_attention_forward(c.byref(d)))


def attention(q, k, v, **options):
    """Output of one call in a fresh workspace."""
    out = torch.empty_like(q)
    d = desc(q, k, v, out, **options)
    w = give_workspace(d)
    forward(d)
    if w is not None:
        w.record_stream(torch.cuda.current_stream())
    return out
