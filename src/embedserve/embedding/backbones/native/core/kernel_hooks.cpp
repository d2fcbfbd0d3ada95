// Single kernels behind the C ABI, so that tests hold each against NumPy and benchmarks can time it.
#include <cstring>

#include "api.h"
#include "arena.h"
#include "packing.h"

using namespace embedserve;

// `scale` receives scale and zero of the row.
EMBEDSERVE_API void embedserve_kernel_quantise(const char* isa, const float* x, int k, uint8_t* q, RowScale* scale) {
  *scale = find_kernels(isa)->quantise(x, k, q);
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
  const size_t size = static_cast<size_t>(length) * hidden, scales = static_cast<size_t>(length) * heads;
  Array<uint8_t> q(size);
  Array<int8_t> k(size);
  Array<float> v(size), q_scale(scales), k_scale(scales);
  const HeadRows rows{q.data(), k.data(), q_scale.data(), k_scale.data(), v.data()};
  for (int row = 0; row < length; ++row)
    kernels.split_heads(qkv + static_cast<size_t>(row) * 3 * hidden, shape, rows.from(row, shape));
  Array<char> scratch(kernels.attention_bytes(shape, length));
  for (int head = 0; head < heads; ++head)
    kernels.attention(AttentionTask{rows, length, head, context, hidden}, shape, scratch.data());
}

// out[rows, n padded to 64] = epilogue(a x w' + bias), a = (bytes - zero) * scale by row as `quantise` gave them, w
// n x k packed by weights.cpp, epilogue as in kernels.h. Repeats the product `repeats` times.
EMBEDSERVE_API void embedserve_kernel_gemm(const char* isa, const uint8_t* a, const RowScale* scales, int rows,
                                           const float* w, int n, int k, const float* bias, int epilogue,
                                           const float* residual, float* out, int repeats) {
  Linear linear;
  linear.n = n;
  linear.k = k;
  const int padded = linear.n_padded();
  Array<int8_t> packed(static_cast<size_t>(padded) * k);
  Array<float> scale(padded), column_sum(padded), padded_bias(padded);
  memcpy(padded_bias.data(), bias, sizeof(float) * n);
  linear.packed = packed.data();
  linear.scale = scale.data();
  linear.column_sum = column_sum.data();
  linear.bias = padded_bias.data();
  const Tensor source{w, nullptr, n, k};
  const Packing packing{&linear, {&source}, packed.data(), scale.data(), column_sum.data()};
  for (int panel = 0; panel < linear.panels(); ++panel) packing.pack_panel(panel);
  const Kernels& kernels = *find_kernels(isa);
  for (int i = 0; i < repeats; ++i)
    kernels.gemm(Activations{a, scales, rows}, linear, static_cast<Epilogue>(epilogue), residual, out, padded, 0,
                 linear.panels());
}
