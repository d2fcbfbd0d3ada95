// From a checkpoint's tensors to the layers that the decoder walks through. Layers are packed one at a time, so that
// the caller can let each one's source go before the next.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "arena.h"
#include "decoder_shape.h"
#include "grouped_linear.h"
#include "threads.h"

namespace embedserve {

struct DecoderLayer {
  const float *before_attention, *before_ffn;  // gains
  const float *query_norm, *key_norm;          // a head's; the query's holds log2(e) / sqrt(d) as well
  GroupedLinear keys_values, queries, project, contract;
  std::vector<GroupedLinear> expand;  // chunks of kGroup gates and then their ups (the last may be smaller)
};

class DecoderWeights {
 public:
  explicit DecoderWeights(const DecoderShape& shape);
  // Tensors of the layer that is packed next ("q", "k", "v", "o", "gate", "up", "down", "input_norm", "ffn_norm",
  // "q_norm", "k_norm"), or "words" and "last_norm", which finish() takes. The caller's memory must stay until the
  // layer is packed, that of "words" for ever.
  void set(const std::string& name, const Tensor& tensor) { tensors_[name] = tensor; }
  // Throw std::invalid_argument naming a tensor that is missing or has another shape than expected; nothing is packed then.
  void pack_layer(Team& team);
  void finish();

  const DecoderShape& shape() const { return shape_; }
  const std::vector<DecoderLayer>& layers() const { return layers_; }
  const Tensor& words() const { return words_; }
  const float* last_norm() const { return last_norm_; }
  size_t bytes() const { return packed_.bytes() + numbers_.bytes(); }

 private:
  const Tensor& need(const std::string& name, int rows, int columns) const;
  const float* keep_gain(const std::string& name, int count, float factor = 1.0f);
  void pack(DecoderLayer& layer, Team& team);
  void place(GroupedLinear& linear, int k, const std::vector<GroupedPacking::Stretch>& stretches, std::vector<GroupedPacking>& jobs);

  DecoderShape shape_;
  std::map<std::string, Tensor> tensors_;
  Array<int8_t> packed_;
  Array<float> numbers_;
  size_t packed_used_ = 0, numbers_used_ = 0;
  const float* zeros_ = nullptr;
  Tensor words_;
  const float* last_norm_ = nullptr;
  std::vector<DecoderLayer> layers_;
};

}  // namespace embedserve
