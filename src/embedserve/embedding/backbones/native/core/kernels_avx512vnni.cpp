// build: x86_64 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi -mfma -mf16c -mbmi2
// The kernels compiled for AVX-512 with VNNI (Ice Lake, Zen 4 and later). Only this file may use those
// instructions: everything it defines is file-local, so no other code can end up with them.
#if defined(__x86_64__)
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels.h"
#include "simd_avx512.h"
#include "rows.inl"
#include "gemm.inl"
#include "attention.inl"
#include "decoder_rows.inl"
#include "causal_attention.inl"

namespace embedserve {
const Kernels* kernels_avx512vnni() {
  static constexpr Kernels table{"avx512vnni", gemm, quantise, layer_norm, embed,
                                 split_heads, attention, attention_bytes, accumulate, &decoder_kernels};
  return &table;
}
}  // namespace embedserve
#endif
