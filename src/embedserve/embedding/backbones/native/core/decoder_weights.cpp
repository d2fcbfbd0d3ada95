#include "decoder_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace embedserve {
namespace {

// Outputs and inputs of a layer's products, as pack_layer() lays them out.
std::vector<std::pair<int, int>> layer_sizes(const DecoderShape& shape) {
  std::vector<std::pair<int, int>> sizes{{2 * shape.kv_width(), shape.hidden},
                                         {shape.q_width(), shape.hidden},
                                         {shape.hidden, shape.q_width()},
                                         {shape.hidden, shape.ffn}};
  for (int chunk = 0; chunk < group_count(shape.ffn); ++chunk) sizes.emplace_back(2 * group_width(shape.ffn, chunk), shape.hidden);
  return sizes;
}

}  // namespace

DecoderWeights::DecoderWeights(const DecoderShape& shape) : shape_(shape) {
  size_t packed = 0, numbers = 2 * shape.hidden + 2 * shape.head_size;
  for (const auto& [n, k] : layer_sizes(shape)) {
    packed += GroupedPacking::packed_bytes(n, k);
    numbers += GroupedPacking::number_count(n, k);
  }
  const int widest = std::max({shape.q_width(), 2 * shape.kv_width(), shape.hidden, 2 * kGroup});
  packed_.resize(packed * shape.layers);
  numbers_.resize(numbers * shape.layers + round_up(widest, kPanel) + shape.hidden);
  zeros_ = numbers_.data();
  numbers_used_ = round_up(widest, kPanel);
  layers_.reserve(shape.layers);
}

const Tensor& DecoderWeights::need(const std::string& name, int rows, int columns) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::invalid_argument("the weights lack the tensor " + name);
  const Tensor& tensor = found->second;
  if (tensor.rows != rows || tensor.columns != columns)
    throw std::invalid_argument(name + ": expected " + std::to_string(rows) + " x " + std::to_string(columns) + " values, got " +
                                std::to_string(tensor.rows) + " x " + std::to_string(tensor.columns));
  return tensor;
}

const float* DecoderWeights::keep_gain(const std::string& name, int count, float factor) {
  float* place = numbers_.data() + numbers_used_;
  numbers_used_ += count;
  need(name, 1, count).read_row(0, place);
  for (int i = 0; i < count; ++i) place[i] *= factor;
  return place;
}

void DecoderWeights::place(GroupedLinear& linear, int k, const std::vector<GroupedPacking::Stretch>& stretches,
                           std::vector<GroupedPacking>& jobs) {
  linear.k = k;
  for (const auto& stretch : stretches) linear.n += stretch.count;
  jobs.push_back({&linear, stretches});
  jobs.back().place(packed_.data() + packed_used_, numbers_.data() + numbers_used_, zeros_);
  packed_used_ += GroupedPacking::packed_bytes(linear.n, k);
  numbers_used_ += GroupedPacking::number_count(linear.n, k);
}

void DecoderWeights::pack_layer(Team& team) {
  if (static_cast<int>(layers_.size()) == shape_.layers) throw std::invalid_argument("all layers are packed");
  const size_t packed_before = packed_used_, numbers_before = numbers_used_;
  DecoderLayer layer;
  try {
    pack(layer, team);
  } catch (...) {
    packed_used_ = packed_before;
    numbers_used_ = numbers_before;
    throw;
  }
  layers_.push_back(std::move(layer));
  tensors_.clear();
}

void DecoderWeights::pack(DecoderLayer& layer, Team& team) {
  const int hidden = shape_.hidden, d = shape_.head_size, q = shape_.q_width(), kv = shape_.kv_width(), ffn = shape_.ffn;
  const Tensor &keys = need("k", kv, hidden), &values = need("v", kv, hidden), &queries = need("q", q, hidden);
  const Tensor &project = need("o", hidden, q), &down = need("down", hidden, ffn);
  const Tensor &gate = need("gate", ffn, hidden), &up = need("up", ffn, hidden);
  layer.before_attention = keep_gain("input_norm", hidden);
  layer.before_ffn = keep_gain("ffn_norm", hidden);
  layer.query_norm = keep_gain("q_norm", d, 1.44269504f / std::sqrt(static_cast<float>(d)));
  layer.key_norm = keep_gain("k_norm", d);
  layer.expand.resize(group_count(ffn));
  std::vector<GroupedPacking> jobs;
  place(layer.keys_values, hidden, {{&keys, 0, kv}, {&values, 0, kv}}, jobs);
  place(layer.queries, hidden, {{&queries, 0, q}}, jobs);
  place(layer.project, q, {{&project, 0, hidden}}, jobs);
  place(layer.contract, ffn, {{&down, 0, hidden}}, jobs);
  for (int chunk = 0; chunk < group_count(ffn); ++chunk) {
    const int width = group_width(ffn, chunk), first = chunk * kGroup;
    place(layer.expand[chunk], hidden, {{&gate, first, width}, {&up, first, width}}, jobs);
  }

  std::vector<std::pair<const GroupedPacking*, int>> panels;
  for (const GroupedPacking& job : jobs)
    for (int panel = 0; panel < job.linear->panels(); ++panel) panels.emplace_back(&job, panel);
  std::atomic<size_t> next{0};
  team.run([&](int) {
    for (size_t i; (i = next.fetch_add(1)) < panels.size();) panels[i].first->pack_panel(panels[i].second);
  });
}

void DecoderWeights::finish() {
  if (static_cast<int>(layers_.size()) != shape_.layers) throw std::invalid_argument("some layers are not packed");
  if (last_norm_) throw std::invalid_argument("the weights are packed");
  need("last_norm", 1, shape_.hidden);
  words_ = need("words", shape_.vocabulary, shape_.hidden);
  last_norm_ = keep_gain("last_norm", shape_.hidden);
  tensors_.clear();
}

}  // namespace embedserve
