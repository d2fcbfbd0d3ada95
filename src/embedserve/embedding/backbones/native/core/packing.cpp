#include "packing.h"

#include <cmath>
#include <cstring>

namespace embedserve {
namespace {

float half_to_float(uint16_t half) {
  const uint32_t rest = half & 0x7fffu;
  float value = static_cast<float>(rest) * 5.9604644775390625e-8f;  // subnormal or zero
  if (rest >= 0x0400u) {
    const uint32_t bits = (rest << 13) + (112u << 23);
    memcpy(&value, &bits, 4);
  }
  return half & 0x8000u ? -value : value;
}

}  // namespace

void Tensor::read_row(int row, float* out) const {
  if (fp32) {
    memcpy(out, fp32 + static_cast<size_t>(row) * columns, sizeof(float) * columns);
    return;
  }
  if (bf16 || fp16) {
    const uint16_t* halves = (bf16 ? bf16 : fp16) + static_cast<size_t>(row) * columns;
    if (fp16)
      for (int i = 0; i < columns; ++i) out[i] = half_to_float(halves[i]);
    else
      for (int i = 0; i < columns; ++i) {
        const uint32_t bits = static_cast<uint32_t>(halves[i]) << 16;
        memcpy(out + i, &bits, 4);
      }
    return;
  }
  const uint8_t* block = q4 + static_cast<size_t>(row) * (columns / 32) * 18;
  for (int i = 0; i < columns; i += 32, block += 18) {
    uint16_t half;
    memcpy(&half, block, 2);
    const float scale = half_to_float(half);
    for (int j = 0; j < 16; ++j) {
      out[i + j] = static_cast<float>((block[2 + j] & 15) - 8) * scale;
      out[i + 16 + j] = static_cast<float>((block[2 + j] >> 4) - 8) * scale;
    }
  }
}

PackedRow pack_row(const float* row, int k, int column, int8_t* panel) {
  float most = 1e-12f;
  for (int i = 0; i < k; ++i) most = std::fabs(row[i]) > most ? std::fabs(row[i]) : most;
  const float inverse = 127.0f / most;
  int32_t sum = 0;
  for (int i = 0; i < k; ++i) {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const float shifted = row[i] * inverse + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    const int8_t value = static_cast<int8_t>(bits & 0xff);
    sum += value;
    panel[static_cast<size_t>(i / kDepth) * kPanel * kDepth + column * kDepth + i % kDepth] = value;
  }
  return {most / 127.0f, static_cast<float>(sum)};
}

void Packing::pack_panel(int panel) const {
  const int k = linear->k, rows_each = parts[0]->rows;
  std::vector<float> row(k);
  int8_t* to = packed + static_cast<size_t>(panel) * k * kPanel;
  for (int column = 0; column < kPanel; ++column) {
    const int n = panel * kPanel + column;
    if (n >= linear->n) break;
    parts[n / rows_each]->read_row(n % rows_each, row.data());
    const PackedRow packed_row = pack_row(row.data(), k, column, to);
    scale[n] = packed_row.scale;
    column_sum[n] = packed_row.sum;
  }
}

}  // namespace embedserve
