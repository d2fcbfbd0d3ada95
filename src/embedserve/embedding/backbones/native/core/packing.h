// From stored rows (fp32, bf16, fp16 or Q4_0) to the packed form that the GEMM reads.
//
// A linear layer of n outputs and k inputs is cut into panels of 64 outputs. Inside a panel, four inputs of one
// output lie side by side (what one int8 dot instruction sums), then the 64 outputs, then the next four inputs:
//
//     packed[panel][k / 4][64 outputs][4 inputs]
//
// so that a tile walks through memory in one direction. Weights are s8 with one scale an output. Moving range
// from activations to weights first (Xiao et al. 2022, SmoothQuant) was measured and makes this model worse.
#pragma once
#include <vector>

#include "kernels.h"

namespace embedserve {

// A matrix of the caller's, row-major; it must stay alive until pack() returns (the word table: for ever).
struct Tensor {
  const float* fp32 = nullptr;
  const uint8_t* q4 = nullptr;  // blocks of 32: one fp16 scale, 16 bytes of low and high nibbles
  int rows = 0, columns = 0;
  const uint16_t *bf16 = nullptr, *fp16 = nullptr;
  void read_row(int row, float* out) const;
};

// One row of k values as s8 with a scale of its own, laid into column `column` of a panel; its scale and the sum of
// its bytes come back.
struct PackedRow {
  float scale, sum;
};
PackedRow pack_row(const float* row, int k, int column, int8_t* panel);

// One linear layer on its way: where it comes from (one tensor, or q, k and v one under another) and goes to.
// The places it writes to are zero beforehand, so padding stays zero.
struct Packing {
  Linear* linear;
  std::vector<const Tensor*> parts;
  int8_t* packed;
  float *scale, *column_sum;
  void pack_panel(int panel) const;
};

}  // namespace embedserve
