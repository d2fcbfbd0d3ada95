// A linear layer whose inputs are cut into groups of at most kGroup, each with scales of its own on both sides.
//
// Decoders grow activations of a hundred times the usual size in a few channels, which would push every other channel
// into a few steps. What stands out that far in its group is therefore multiplied in fp32 by itself (Dettmers et al.
// 2022, LLM.int8(), value by value instead of channel by channel), and what is merely large spoils its own group
// only. The groups' products are added up in fp32. A panel of one group also fits the first-level cache, which one
// over all inputs would not.
#pragma once
#include <vector>

#include "arena.h"
#include "packing.h"

namespace embedserve {

inline int group_count(int k) { return (k + kGroup - 1) / kGroup; }
inline int group_width(int k, int group) { return k - group * kGroup < kGroup ? k - group * kGroup : kGroup; }

struct GroupedLinear {
  int n = 0, k = 0;
  std::vector<Linear> groups;
  int n_padded() const { return round_up(n, kPanel); }
  int panels() const { return n_padded() / kPanel; }
};

// Room for rows of bytes, group by group: group g's rows lie together, as many bytes each as the group has inputs.
// What stands out in a group is zero there and kept apart, as it is.
struct GroupedBytes {
  Array<uint8_t> values;
  Array<RowScale> scales;
  Array<Outlier> outliers;
  Array<int> counts;

  void reserve(int rows, int columns) {
    const size_t groups = static_cast<size_t>(rows) * group_count(columns);
    values.resize(static_cast<size_t>(rows) * columns);
    scales.resize(groups);
    outliers.resize(groups * kMostOutliers);
    counts.resize(groups);
  }
  Activations of(int group, int rows) const {
    return {values.data() + static_cast<size_t>(group) * kGroup * rows, scales.data() + static_cast<size_t>(group) * rows, rows};
  }
  // `count` values of one of `rows` rows, from input `first`, a multiple of kGroup, on. What stands out is set to zero
  // in x as well.
  void quantise(const Kernels& kernels, float* x, int first, int count, int row, int rows) {
    for (int at = 0; at < count; at += kGroup) {
      const size_t group = (first + at) / kGroup, width = count - at < kGroup ? count - at : kGroup;
      const size_t place = group * rows + row;
      counts[place] = kernels.decoder->take_outliers(x + at, static_cast<int>(width), outliers.data() + place * kMostOutliers);
      scales[place] = kernels.quantise(x + at, static_cast<int>(width), values.data() + group * kGroup * rows + row * width);
    }
  }
  size_t bytes() const { return values.bytes() + scales.bytes() + outliers.bytes() + counts.bytes(); }
};

// out[rows, panels] = activations x weights (+ what is there, with `add`)
inline void multiply(const Kernels& kernels, const GroupedBytes& in, int rows, const GroupedLinear& linear, bool add, float* out,
                     int stride, int panel_begin, int panel_end) {
  if (panel_begin >= panel_end) return;
  for (size_t group = 0; group < linear.groups.size(); ++group) {
    const bool more = add || group > 0;
    kernels.gemm(in.of(static_cast<int>(group), rows), linear.groups[group], more ? Epilogue::kResidual : Epilogue::kStore,
                 more ? out : nullptr, out, stride, panel_begin, panel_end);
    for (int row = 0; row < rows; ++row)
      if (const size_t place = group * rows + row; in.counts[place])
        kernels.decoder->add_outliers(in.outliers.data() + place * kMostOutliers, in.counts[place], linear.groups[group],
                                      out + static_cast<size_t>(row) * stride, panel_begin, panel_end);
  }
}

// A grouped layer on its way: its outputs are rows of some tensors, one stretch after another.
struct GroupedPacking {
  struct Stretch {
    const Tensor* from;
    int first, count;
  };
  GroupedLinear* linear;
  std::vector<Stretch> stretches;

  // Places for `linear`, which knows n and k: packed_bytes() and number_count() of them, zero.
  void place(int8_t* packed, float* numbers, const float* zeros);
  static size_t packed_bytes(int n, int k) { return static_cast<size_t>(round_up(n, kPanel)) * k; }
  static size_t number_count(int n, int k) { return 2 * static_cast<size_t>(round_up(n, kPanel)) * group_count(k); }
  void pack_panel(int panel) const;
};

}  // namespace embedserve
