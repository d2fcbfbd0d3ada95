// build: x86_64 -mavx2 -mfma -mf16c -mbmi2 -mavxvnni
// The kernels compiled for AVX2 with VNNI (Alder Lake, Zen 5 and later). See kernels_avx512vnni.cpp.
#if defined(__x86_64__)
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels.h"
#define EMBEDSERVE_AVXVNNI
#include "simd_avx2.h"
#include "rows.inl"
#include "gemm.inl"
#include "attention.inl"
#include "decoder_rows.inl"
#include "causal_attention.inl"

namespace embedserve {
const Kernels* kernels_avxvnni() {
  static constexpr Kernels table{"avxvnni", gemm, quantise, layer_norm, embed,
                                 split_heads, attention, attention_bytes, accumulate, &decoder_kernels};
  return &table;
}
}  // namespace embedserve
#endif
