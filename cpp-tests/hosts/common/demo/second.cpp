#include "op/kernels/kernels_interface.h"

int main() { return kernel::get_mha_kernel(base::DeviceType::kDeviceCPU) ? 0 : 1; }
