// The table of kernels that one instruction set provides. The model walk knows nothing else about the CPU.
#pragma once
#include <cstddef>
#include <cstdint>

#include "decoder_kernels.h"
#include "shape.h"

namespace embedserve {

// One linear layer, packed (weights.h says how).
struct Linear {
  int n = 0, k = 0;              // outputs and inputs; n_padded() outputs are computed
  const int8_t* packed = nullptr;
  const float* scale = nullptr;  // per output: weight = packed * scale
  const float* bias = nullptr;
  const float* column_sum = nullptr;  // per output: sum of its packed weights, what a zero point of one adds
  int n_padded() const { return round_up(n, kPanel); }
  int panels() const { return n_padded() / kPanel; }
  const int8_t* panel(int index) const { return packed + static_cast<size_t>(index) * k * kPanel; }
};

enum class Epilogue { kStore, kGelu, kResidual };

// x = (byte - zero) * scale. One pair a row (a token), so that a token's numbers never depend on its neighbours.
struct RowScale {
  float scale, zero;
};

// Activations of a linear layer.
struct Activations {
  const uint8_t* values;  // rows * k
  const RowScale* scales;  // rows
  int rows;
};

// What attention reads, a row a token: q and k as bytes with a scale a head, v as it comes.
struct HeadRows {
  uint8_t* q;  // 128 + value, hidden a row
  int8_t* k;   // hidden a row
  float *q_scale, *k_scale;  // heads a row
  float* v;    // hidden a row
  HeadRows from(size_t row, const Shape& shape) const {
    const size_t hidden = row * shape.hidden, heads = row * shape.heads;
    return {q + hidden, k + hidden, q_scale + heads, k_scale + heads, v + hidden};
  }
};

// One head of one sequence.
struct AttentionTask {
  HeadRows rows;  // from the sequence's first token on
  int length;
  int head;
  float* context;  // length rows, context_stride floats apart; this head's columns are written
  int context_stride;
};

struct Kernels {
  const char* name;
  // out[rows, panels of 64 columns] = epilogue(activations x weights + bias); residual may be out itself.
  void (*gemm)(const Activations& a, const Linear& w, Epilogue epilogue, const float* residual, float* out,
               int stride, int panel_begin, int panel_end);
  // Bytes from 0 to 255 over the row's own range. Not symmetric: layer norms leave a few channels large on one
  // side and GELU has next to nothing below zero, so a zero point a row quarters the error.
  RowScale (*quantise)(const float* x, int k, uint8_t* q);
  void (*layer_norm)(const float* x, const float* gain, const float* bias, int n, float eps, float* out);
  // out = word + position + type, word given as Q4_0 blocks or (blocks null) as fp32.
  void (*embed)(const uint8_t* blocks, const float* word, const float* position, const float* type, int n,
                float* out);
  // From one row [q | k | v] of the linear layer to what attention reads.
  void (*split_heads)(const float* qkv, const Shape& shape, const HeadRows& to);
  // `scratch` holds attention_bytes(shape, length), 64-byte aligned.
  void (*attention)(const AttentionTask& task, const Shape& shape, char* scratch);
  size_t (*attention_bytes)(const Shape& shape, int length);
  // total += weight * x
  void (*accumulate)(const float* x, float weight, int n, float* total);
  const DecoderKernels* decoder;
};

// The best set this CPU runs, or the one called `name`; null when it is unknown or not available here.
const Kernels* find_kernels(const char* name);

// Defined only where the compiler targets the architecture.
const Kernels* kernels_avx512vnni();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx2();
const Kernels* kernels_neon();
const Kernels* kernels_scalar();

}  // namespace embedserve
