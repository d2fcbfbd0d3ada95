// build: aarch64 -march=armv8.2-a+dotprod
// The kernels compiled for AArch64 with the dot-product extension (Cortex-A76, Neoverse, Apple M1 and later).
#if defined(__aarch64__)
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels.h"
#include "simd_neon.h"
#include "rows.inl"
#include "gemm.inl"
#include "attention.inl"
#include "decoder_rows.inl"
#include "causal_attention.inl"

namespace embedserve {
const Kernels* kernels_neon() {
  static constexpr Kernels table{"neon", gemm, quantise, layer_norm, embed,
                                 split_heads, attention, attention_bytes, accumulate, &decoder_kernels};
  return &table;
}
}  // namespace embedserve
#endif
