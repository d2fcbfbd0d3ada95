// The kernels that a decoder needs beside those of an encoder (kernels.h), one table an instruction set.
#pragma once
#include <cstddef>

namespace embedserve {

struct Linear;

constexpr int kKeyBlock = 64;  // keys that are scored together; blocks start at multiples of it in their sequence

// Some consecutive positions of one sequence, and one head of keys and values with the query heads that share it.
struct CausalTask {
  const float* keys;    // [block of kKeyBlock keys][d][kKeyBlock], from the sequence's first position on
  const float* values;  // [position][d]
  float* rows;          // `group` queries of d side by side for each position; their contexts take their place
  int stride;           // floats from one position's queries to the next's
  int group, d;
  int first, count;     // positions
};

// An activation that stands out so far that it is left out of its row's bytes.
struct Outlier {
  int column;  // within its group
  float value;
};
constexpr int kGroup = 256;        // inputs of a linear layer that share a scale
constexpr int kOutlierTimes = 8;   // the mean magnitude of its group, from which on a value stands out
constexpr int kMostOutliers = kGroup / kOutlierTimes;  // more cannot be that far above their own mean

struct DecoderKernels {
  // Writes down what stands out among k values and sets it to zero; returns how many.
  int (*take_outliers)(float* x, int k, Outlier* out);
  // out[panels] += outliers x their weights; out is a whole row, linear one group.
  void (*add_outliers)(const Outlier* outliers, int count, const Linear& linear, float* out, int panel_begin, int panel_end);
  // out = x / root mean square(x) * gain
  void (*rms_norm)(const float* x, const float* gain, int n, float eps, float* out);
  // One head: the norm above over d values, then the rotation by the angles of its position: value i turns with
  // value i + d / 2. cosines and sines hold d / 2 values. out may be x.
  void (*rotate_head)(const float* x, const float* gain, const float* cosines, const float* sines, int d, float eps, float* out);
  // out = gate * sigmoid(gate) * up; out may be gate.
  void (*swiglu)(const float* gate, const float* up, int n, float* out);
  // softmax(q k') v over the positions up to each query's own, q already scaled for powers of two (log2(e) / sqrt(d)).
  // `scratch` holds causal_bytes(task), 64-byte aligned.
  void (*attend)(const CausalTask& task, char* scratch);
  size_t (*attend_bytes)(const CausalTask& task);
};

}  // namespace embedserve
