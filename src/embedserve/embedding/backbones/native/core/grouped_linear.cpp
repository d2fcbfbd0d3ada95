#include "grouped_linear.h"

namespace embedserve {

void GroupedPacking::place(int8_t* packed, float* numbers, const float* zeros) {
  const int padded = linear->n_padded();
  linear->groups.assign(group_count(linear->k), Linear{});
  for (size_t group = 0; group < linear->groups.size(); ++group) {
    Linear& part = linear->groups[group];
    part.n = linear->n;
    part.k = group_width(linear->k, static_cast<int>(group));
    part.packed = packed;
    part.scale = numbers;
    part.column_sum = numbers + padded;
    part.bias = zeros;
    packed += static_cast<size_t>(padded) * part.k;
    numbers += 2 * padded;
  }
}

void GroupedPacking::pack_panel(int panel) const {
  std::vector<float> row(linear->k);
  int stretch = 0, before = 0;  // outputs of earlier stretches
  for (int column = 0; column < kPanel; ++column) {
    const int n = panel * kPanel + column;
    if (n >= linear->n) break;
    while (n - before >= stretches[stretch].count) before += stretches[stretch++].count;
    stretches[stretch].from->read_row(stretches[stretch].first + n - before, row.data());
    for (size_t group = 0; group < linear->groups.size(); ++group) {
      const Linear& part = linear->groups[group];
      const PackedRow packed = pack_row(row.data() + group * kGroup, part.k, column, const_cast<int8_t*>(part.panel(panel)));
      const_cast<float*>(part.scale)[n] = packed.scale;
      const_cast<float*>(part.column_sum)[n] = packed.sum;
    }
  }
}

}  // namespace embedserve
