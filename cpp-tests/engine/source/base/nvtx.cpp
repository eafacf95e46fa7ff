#include "base/nvtx.h"

#include <dlfcn.h>

namespace base {
namespace {
struct Nvtx {
  int (*push)(const char*) = nullptr;
  int (*pop)() = nullptr;

  Nvtx() {
    // CUDA 13 has the first, older toolkits the second; both export the same C functions.
    for (const char* library : {"libnvtx3interop.so.1", "libnvToolsExt.so.1"}) {
      void* handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL);
      if (!handle) continue;
      push = reinterpret_cast<int (*)(const char*)>(dlsym(handle, "nvtxRangePushA"));
      pop = reinterpret_cast<int (*)()>(dlsym(handle, "nvtxRangePop"));
      if (push && pop) return;
    }
    push = [](const char*) { return 0; };
    pop = [] { return 0; };
  }
};

const Nvtx& nvtx() {
  static const Nvtx loaded;
  return loaded;
}
}  // namespace

NvtxRange::NvtxRange(const char* name) { nvtx().push(name); }
NvtxRange::~NvtxRange() { nvtx().pop(); }
}  // namespace base
