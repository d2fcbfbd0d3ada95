// What the weights say about the network, and the sizes that follow from it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace embedserve {

constexpr int kPanel = 64;      // columns of a weight panel; every output row is padded to a multiple of it
constexpr int kDepth = 4;       // products summed by one int8 dot instruction
constexpr int kRowBlock = 48;   // rows that stay in the second-level cache through a layer's linear parts

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// Sizes beyond these are a damaged file's; up to them the bytes of a network can be counted in 64 bits.
constexpr int kMostLayers = 1 << 12, kMostWidth = 1 << 20, kMostRows = 1 << 24;

inline void check_sizes(std::initializer_list<int> sizes, int most) {
  for (int size : sizes)
    if (size < 1 || size > most) throw std::invalid_argument("no network has a size of " + std::to_string(size));
}

struct Shape {
  int hidden, layers, heads, ffn, positions, vocabulary;
  float eps;
  int head_size() const { return hidden / heads; }
  int hidden_stride() const { return round_up(hidden, kPanel); }
  int qkv_stride() const { return round_up(3 * hidden, kPanel); }
  int ffn_stride() const { return round_up(ffn, kPanel); }
};

}  // namespace embedserve
