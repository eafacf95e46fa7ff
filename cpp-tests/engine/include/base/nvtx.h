#ifndef KUIPER_BASE_NVTX_H_
#define KUIPER_BASE_NVTX_H_
#include "base/base.h"

namespace base {
// Names what happens in its scope in a profiler's trace (nsys, ncu). Does nothing where the NVTX
// library, which is looked for at run time, is not installed.
class NvtxRange : public NoCopyable {
 public:
  explicit NvtxRange(const char* name);
  ~NvtxRange();
};
}  // namespace base
#endif  // KUIPER_BASE_NVTX_H_
