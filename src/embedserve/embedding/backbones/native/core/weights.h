// From tensors as the caller has them to the layers that the model walks through.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "arena.h"
#include "packing.h"
#include "threads.h"

namespace embedserve {

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
  // Throws std::invalid_argument naming a tensor that cannot be one.
  void set(const std::string& name, const Tensor& tensor);
  // Throws std::invalid_argument naming a tensor that is missing or has another shape than expected. Once.
  void pack(Team& team);

  const Shape& shape() const { return shape_; }
  bool packed() const { return packed_all_; }
  const std::vector<Layer>& layers() const { return layers_; }
  const Tensor& words() const { return words_; }
  const float* positions() const { return positions_; }
  const float* type() const { return type_; }
  const Norm& embedding_norm() const { return embedding_norm_; }
  size_t bytes() const { return packed_.bytes() + numbers_.bytes(); }

 private:
  const Tensor& need(const std::string& name) const;
  const Tensor& need(const std::string& name, int rows, int columns) const;
  const float* keep(const std::string& name);
  Norm keep_norm(const std::string& name);
  float* take(size_t count);

  Shape shape_;
  std::map<std::string, Tensor> tensors_;
  Array<int8_t> packed_;
  Array<float> numbers_;
  size_t numbers_used_ = 0;
  Tensor words_;
  const float* positions_ = nullptr;
  const float* type_ = nullptr;
  Norm embedding_norm_{};
  std::vector<Layer> layers_;
  bool packed_all_ = false;
};

}  // namespace embedserve
