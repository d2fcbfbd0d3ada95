// The kernels compiled for whatever the compiler's default target is.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels.h"
#include "simd_scalar.h"
#include "rows.inl"
#include "gemm.inl"
#include "attention.inl"
#include "decoder_rows.inl"
#include "causal_attention.inl"

namespace embedserve {
const Kernels* kernels_scalar() {
  static constexpr Kernels table{"scalar", gemm, quantise, layer_norm, embed,
                                 split_heads, attention, attention_bytes, accumulate, &decoder_kernels};
  return &table;
}
}  // namespace embedserve
