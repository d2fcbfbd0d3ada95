// Single kernels behind the C ABI, so that tests hold each against NumPy and benchmarks can time it.
#include <vector>

#include "arena.h"
#include "weights.h"

#define EMBEDSERVE_API extern "C" __attribute__((visibility("default")))

using namespace embedserve;

EMBEDSERVE_API float embedserve_kernel_quantise(const char* isa, const float* x, const float* smooth, int k, uint8_t* q) {
  return find_kernels(isa)->quantise(x, smooth, k, q);
}

EMBEDSERVE_API float embedserve_kernel_quantise_gelu(const char* isa, const float* x, int k, uint8_t* q) {
  return find_kernels(isa)->quantise_gelu(x, k, q);
}

EMBEDSERVE_API void embedserve_kernel_layer_norm(const char* isa, const float* x, const float* gain, const float* bias, int n,
                                                 float eps, float* out) {
  find_kernels(isa)->layer_norm(x, gain, bias, n, eps, out);
}

EMBEDSERVE_API void embedserve_kernel_embed(const char* isa, const uint8_t* blocks, const float* position, const float* type,
                                            int n, float* out) {
  find_kernels(isa)->embed(blocks, nullptr, position, type, n, out);
}

EMBEDSERVE_API void embedserve_kernel_attention(const char* isa, const float* qkv, int length, int hidden, int heads,
                                                float* context) {
  const Kernels& kernels = *find_kernels(isa);
  const Shape shape{hidden, 1, heads, hidden, length, 1, 0.0f};
  Array<char> scratch(kernels.attention_bytes(shape, length));
  for (int head = 0; head < heads; ++head)
    kernels.attention(AttentionTask{qkv, 3 * hidden, length, head, context, hidden}, shape, scratch.data());
}

// out[rows, n padded to 64] = epilogue(a x w' + bias); w is n x k of integers -127..127 with scale 1, zero is what
// the activations' zero point stands at (128 or 0), epilogue as in kernels.h. Repeats the product `repeats` times.
EMBEDSERVE_API void embedserve_kernel_gemm(const char* isa, const uint8_t* a, const float* a_scale, int rows, const int8_t* w,
                                           int n, int k, const float* scale, const float* bias, int zero, int epilogue,
                                           const float* residual, float* out, int repeats) {
  const Kernels& kernels = *find_kernels(isa);
  Linear linear;
  linear.n = n;
  linear.k = k;
  const int padded = linear.n_padded();
  Array<int8_t> packed(static_cast<size_t>(padded) * k);
  Array<float> numbers(static_cast<size_t>(padded) * 2);
  Array<int32_t> offset(padded);
  for (int row = 0; row < n; ++row) {
    int32_t sum = 0;
    for (int i = 0; i < k; ++i) {
      sum += w[static_cast<size_t>(row) * k + i];
      packed[static_cast<size_t>(row / kPanel) * k * kPanel + static_cast<size_t>(i / kDepth) * kPanel * kDepth +
             row % kPanel * kDepth + i % kDepth] = w[static_cast<size_t>(row) * k + i];
    }
    offset[row] = (kernels.activation_shift - zero) * sum;
    numbers[row] = scale[row];
    numbers[padded + row] = bias[row];
  }
  linear.packed = packed.data();
  linear.scale = numbers.data();
  linear.bias = numbers.data() + padded;
  linear.offset = offset.data();
  for (int i = 0; i < repeats; ++i)
    kernels.gemm(Activations{a, a_scale, rows}, linear, static_cast<Epilogue>(epilogue), residual, out, padded, 0, linear.panels());
}
