"""Makes PyPI's torch importable on a machine without CUDA's libraries, which are 2 GB that its CPU
kernels never call: writes libraries of the missing names whose functions only trap.

    torch_without_cuda.py TORCH_LIB_FOLDER OUT_FOLDER
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

# Of the CUDA libraries, cudart and cupti are small and installed; the driver is not linked.
MISSING = re.compile(r"lib(cu(?!dart|pti|da\.)|nccl|nvshmem).*")
PREFIXES = re.compile(r"(cublas|cudnn|cufft|cusparse|nccl|curand|nvshmem|cuFile)\w*")


def main(libraries, out):
    out.mkdir(parents=True, exist_ok=True)
    names, versions, functions = set(), defaultdict(set), defaultdict(set)
    for library in map(libraries.joinpath, ("libtorch_cuda.so", "libtorch_nvshmem.so", "libtorch_python.so")):

        def output(*words):
            return subprocess.run([*words, library], check=True, capture_output=True, text=True).stdout

        names |= {n for n in re.findall(r"NEEDED.*\[(.*?)\]", output("readelf", "-dW")) if MISSING.match(n)}
        file = None
        for line in output("readelf", "-VW").splitlines():
            if found := re.search(r"File: (\S+)", line):
                file = found[1]
            elif file and (found := re.search(r"Name: (\S+)\s+Flags", line)):
                versions[file].add(found[1])
        for found in re.finditer(r" [Uw] (\w+)(?:@(\S+))?$", output("nm", "-D", "--undefined-only"), re.M):
            functions[found[2]].add(found[1])
    unversioned = {f for f in functions[None] if PREFIXES.fullmatch(f)}

    source, script = out / "stub.c", out / "stub.map"
    for name in sorted(names):
        its = sorted(versions[name])
        exported = set().union(*(functions[v] for v in its)) if its else unversioned
        source.write_text("".join(f"void {f}(void) {{ __builtin_trap(); }}\n" for f in sorted(exported)))
        script.write_text("".join(f"{v} {{ global: {' '.join(f + ';' for f in sorted(functions[v]))} }};\n" for v in its))
        link = [f"-Wl,-soname,{name}"] + ([f"-Wl,--version-script={script}"] if its else [])
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", *link, "-o", out / name, source], check=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
