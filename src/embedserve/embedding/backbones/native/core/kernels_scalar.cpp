// The kernels compiled for whatever the compiler's default target is.
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "simd_scalar.h"
#include "rows.inl"
#include "gemm.inl"
#include "attention.inl"

namespace embedserve {
const Kernels* kernels_scalar() {
  static constexpr Kernels table{"scalar", 0, gemm, quantise, quantise_gelu, layer_norm, embed,
                                 attention, attention_bytes, accumulate};
  return &table;
}
}  // namespace embedserve
