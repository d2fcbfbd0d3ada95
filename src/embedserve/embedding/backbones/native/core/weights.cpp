#include "weights.h"

#include <atomic>
#include <stdexcept>

namespace embedserve {
namespace {

size_t round_lines(size_t count) { return (count + 15) / 16 * 16; }

}  // namespace

void Weights::set(const std::string& name, const Tensor& tensor) {
  if (tensor.rows < 1 || tensor.columns < 1) throw std::invalid_argument(name + ": a tensor has rows and columns");
  if (tensor.q4 && tensor.columns % 32) throw std::invalid_argument(name + ": Q4_0 rows are multiples of 32 values");
  tensors_[name] = tensor;
}

const Tensor& Weights::need(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::invalid_argument("the weights lack the tensor " + name);
  return found->second;
}

const Tensor& Weights::need(const std::string& name, int rows, int columns) const {
  const Tensor& tensor = need(name);
  if (tensor.rows != rows || tensor.columns != columns)
    throw std::invalid_argument(name + ": expected " + std::to_string(rows) + " x " + std::to_string(columns) + " values, got " +
                                std::to_string(tensor.rows) + " x " + std::to_string(tensor.columns));
  return tensor;
}

float* Weights::take(size_t count) {
  float* place = numbers_.data() + numbers_used_;
  numbers_used_ += round_lines(count);
  return place;
}

const float* Weights::keep(const std::string& name) {
  const Tensor& tensor = need(name);
  float* copy = take(static_cast<size_t>(tensor.rows) * tensor.columns);
  for (int row = 0; row < tensor.rows; ++row) tensor.read_row(row, copy + static_cast<size_t>(row) * tensor.columns);
  return copy;
}

Norm Weights::keep_norm(const std::string& name) {
  for (const char* part : {".w", ".b"}) need(name + part, 1, shape_.hidden);
  const float* gain = keep(name + ".w");
  return {gain, keep(name + ".b")};
}

void Weights::pack(Team& team) {
  if (packed_all_) throw std::invalid_argument("the weights are packed");
  numbers_used_ = 0;  // one that failed may have been here
  const int h = shape_.hidden, f = shape_.ffn;
  const size_t layer_bytes = static_cast<size_t>(shape_.qkv_stride() + shape_.hidden_stride() + shape_.ffn_stride()) * h +
                             static_cast<size_t>(shape_.hidden_stride()) * f;
  const size_t outputs = shape_.qkv_stride() + 2 * shape_.hidden_stride() + shape_.ffn_stride();
  packed_.resize(layer_bytes * shape_.layers);
  numbers_.resize((3 * outputs + 4 * round_lines(h)) * shape_.layers + static_cast<size_t>(shape_.positions + 3) * round_lines(h));
  words_ = need("emb.word", shape_.vocabulary, h);
  need("emb.pos", shape_.positions, h);
  positions_ = keep("emb.pos");
  const Tensor& types = need("emb.type");
  if (types.columns != h) throw std::invalid_argument("emb.type: a row has as many values as the hidden size");
  float* type = take(h);
  types.read_row(0, type);
  type_ = type;
  embedding_norm_ = keep_norm("emb.ln");
  layers_.assign(shape_.layers, Layer{});

  std::vector<Packing> jobs;
  int8_t* packed = packed_.data();
  const auto add = [&](Linear& linear, const std::string& layer, const std::vector<const char*>& names, int rows, int k) {
    linear.n = rows * static_cast<int>(names.size());
    linear.k = k;
    Packing job{&linear, {}, packed, take(linear.n_padded()), take(linear.n_padded())};
    float* bias_copy = take(linear.n_padded());
    for (size_t i = 0; i < names.size(); ++i) {
      const Tensor& weight = need(layer + names[i] + ".w", rows, k);
      const Tensor& bias = need(layer + names[i] + ".b", 1, rows);
      job.parts.push_back(&weight);
      bias.read_row(0, bias_copy + i * rows);
    }
    packed += static_cast<size_t>(linear.n_padded()) * k;
    linear.packed = job.packed;
    linear.scale = job.scale;
    linear.bias = bias_copy;
    linear.column_sum = job.column_sum;
    jobs.push_back(job);
  };
  for (int i = 0; i < shape_.layers; ++i) {
    const std::string name = "l" + std::to_string(i) + ".";
    Layer& layer = layers_[i];
    layer.after_attention = keep_norm(name + "aln");
    layer.after_ffn = keep_norm(name + "oln");
    add(layer.qkv, name, {"q", "k", "v"}, h, h);
    add(layer.project, name, {"ao"}, h, h);
    add(layer.expand, name, {"fi"}, f, h);
    add(layer.contract, name, {"fo"}, h, f);
  }

  std::vector<std::pair<const Packing*, int>> panels;
  for (const Packing& job : jobs)
    for (int panel = 0; panel < job.linear->panels(); ++panel) panels.emplace_back(&job, panel);
  std::atomic<size_t> next{0};
  team.run([&](int) {
    for (size_t i; (i = next.fetch_add(1)) < panels.size();) panels[i].first->pack_panel(panels[i].second);
  });
  tensors_.clear();
  packed_all_ = true;
}

}  // namespace embedserve
