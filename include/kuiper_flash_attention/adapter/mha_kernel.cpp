// The engine's MHA kernels, served by KuiperFlashAttention's C API.
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// They compute flash attention wherever it can serve and leave the score tensor, which may be
// empty, alone. Standard MHA, in the score tensor, is one switch away: the environment variable
// KFA_DISABLE_FLASH_ATTENTION=1, kfa_set_attention_mode(KFA_ATTENTION_MODE_STANDARD), or a macro:
//
//   KFA_ADAPTER_STANDARD_MHA      both kernels always compute standard MHA
//   KFA_ADAPTER_NO_MHA_KERNEL     leaves out kernel::mha_kernel, for the CPU
//   KFA_ADAPTER_NO_MHA_KERNEL_CU  leaves out kernel::mha_kernel_cu, for CUDA
#include <kuiper_flash_attention/adapter/engine.h>

namespace {
#if !defined(KFA_ADAPTER_NO_MHA_KERNEL) || !defined(KFA_ADAPTER_NO_MHA_KERNEL_CU)
base::Status run_mha(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len,
                     int32_t kv_dim, int32_t kv_mul, int32_t head_size,
                     const tensor::Tensor& mha_out, const tensor::Tensor& query,
                     const tensor::Tensor& score, const tensor::Tensor& key_cache,
                     const tensor::Tensor& value_cache, base::DeviceType device_type,
                     const kernel::CudaConfig* config) {
  using namespace kfa_adapter;
  const kfa_device_type device = to_kfa(device_type);
#ifdef KFA_ADAPTER_STANDARD_MHA
  const kfa_mha_kernel run = kfa_get_standard_mha_kernel(device);
#else
  const kfa_mha_kernel run = kfa_get_mha_kernel(device);
#endif
  if (!run) return no_kernel(device);
  const kfa_tensor out = to_kfa(mha_out), q = to_kfa(query), s = to_kfa(score),
                   k = to_kfa(key_cache), v = to_kfa(value_cache);
  return to_status(run(pos, head_num, layer_index, seq_len, kv_dim, kv_mul, head_size, &out, &q, &s,
                       &k, &v, device, stream_of(device, config)));
}
#endif
}  // namespace

namespace kernel {
#ifndef KFA_ADAPTER_NO_MHA_KERNEL
void mha_kernel(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len, int32_t kv_dim,
                int32_t kv_mul, int32_t head_size, const tensor::Tensor& mha_out,
                const tensor::Tensor& query, const tensor::Tensor& score,
                const tensor::Tensor& key_cache, const tensor::Tensor& value_cache,
                base::DeviceType device_type, CudaConfig* config) {
  static std::atomic<bool> told{false};
  kfa_adapter::report("mha_kernel",
                      run_mha(pos, head_num, layer_index, seq_len, kv_dim, kv_mul, head_size,
                              mha_out, query, score, key_cache, value_cache, device_type, config),
                      told);
}
#endif

#ifndef KFA_ADAPTER_NO_MHA_KERNEL_CU
void mha_kernel_cu(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len,
                   int32_t kv_dim, int32_t kv_mul, int32_t head_size,
                   const tensor::Tensor& mha_out, const tensor::Tensor& query,
                   const tensor::Tensor& score, const tensor::Tensor& key_cache,
                   const tensor::Tensor& value_cache, base::DeviceType device_type,
                   CudaConfig* config) {
  static std::atomic<bool> told{false};
  kfa_adapter::report("mha_kernel_cu",
                      run_mha(pos, head_num, layer_index, seq_len, kv_dim, kv_mul, head_size,
                              mha_out, query, score, key_cache, value_cache, device_type, config),
                      told);
}
#endif
}  // namespace kernel
