// From tensors as stored (fp32 or Q4_0) to the packed form that the kernels read.
//
// A linear layer of n outputs and k inputs is cut into panels of 64 outputs. Inside a panel, four inputs of one
// output lie side by side (what one int8 dot instruction sums), then the 64 outputs, then the next four inputs:
//
//     packed[panel][k / 4][64 outputs][4 inputs]
//
// so that a tile walks through memory in one direction. Weights are s8 with one scale an output. Layers fed by
// a layer norm are smoothed first (Xiao et al. 2022, SmoothQuant): channels whose activations are large hand
// part of their range to the weights. The activations' range is taken from the norm's gain and shift, so no
// calibration text is needed.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "arena.h"
#include "kernels.h"
#include "threads.h"

namespace embedserve {

// A matrix of the caller's, row-major; it must stay alive until pack() returns (the word table: for ever).
struct Tensor {
  const float* fp32 = nullptr;
  const uint8_t* q4 = nullptr;  // blocks of 32: one fp16 scale, 16 bytes of low and high nibbles
  int rows = 0, columns = 0;
  void read_row(int row, float* out) const;
};

struct Norm {
  const float* gain;
  const float* bias;
};

struct Layer {
  Linear qkv, project, expand, contract;
  Norm after_attention, after_ffn;
};

class Weights {
 public:
  explicit Weights(const Shape& shape) : shape_(shape) {}
  // Throws std::invalid_argument naming a tensor that is unknown or has another shape than expected.
  void set(const std::string& name, const Tensor& tensor);
  // Throws std::invalid_argument naming a tensor that is missing.
  void pack(const Kernels& kernels, Team& team);

  const Shape& shape() const { return shape_; }
  const std::vector<Layer>& layers() const { return layers_; }
  const Tensor& words() const { return words_; }
  const float* positions() const { return positions_; }
  const float* type() const { return type_; }
  const Norm& embedding_norm() const { return embedding_norm_; }
  size_t bytes() const { return packed_.bytes() + numbers_.bytes() + offsets_.bytes(); }

 private:
  struct Job;
  const Tensor& need(const std::string& name) const;
  const float* keep(const std::string& name);
  Norm keep_norm(const std::string& name);
  float* take(size_t count);

  Shape shape_;
  std::map<std::string, Tensor> tensors_;
  Array<int8_t> packed_;
  Array<float> numbers_;
  Array<int32_t> offsets_;
  size_t numbers_used_ = 0;
  Tensor words_;
  const float* positions_ = nullptr;
  const float* type_ = nullptr;
  Norm embedding_norm_{};
  std::vector<Layer> layers_;
};

}  // namespace embedserve
