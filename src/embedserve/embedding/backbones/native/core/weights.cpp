#include "weights.h"

#include <atomic>
#include <cmath>
#include <stdexcept>

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

size_t round_lines(size_t count) { return (count + 15) / 16 * 16; }

}  // namespace

void Tensor::read_row(int row, float* out) const {
  if (fp32) {
    memcpy(out, fp32 + static_cast<size_t>(row) * columns, sizeof(float) * columns);
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

// One linear layer on its way: where it comes from (one tensor, or q, k and v one under another) and goes to.
struct Weights::Job {
  Linear* linear;
  std::vector<const Tensor*> parts;
  const Norm* input;  // the norm whose output it reads, or null
  bool after_gelu;
  int8_t* packed;
  float* scale;
  float* bias;
  float* smooth;
  int32_t* offset;

  void read_row(int row, float* out) const {
    const int rows = parts[0]->rows;
    parts[row / rows]->read_row(row % rows, out);
  }

  void find_smoothing() const {
    const int k = linear->k;
    std::vector<float> row(k), most(k, 1e-6f);
    for (int n = 0; n < linear->n; ++n) {
      read_row(n, row.data());
      for (int i = 0; i < k; ++i) most[i] = std::fabs(row[i]) > most[i] ? std::fabs(row[i]) : most[i];
    }
    for (int i = 0; i < k; ++i) {
      const float reach = std::fabs(input->bias[i]) + 3 * std::fabs(input->gain[i]);
      const float factor = std::sqrt(reach / most[i]);
      smooth[i] = factor > 1e-6f ? 1 / factor : 1e6f;
    }
  }

  void pack_panel(int panel, int activation_shift) const {
    const int k = linear->k;
    std::vector<float> row(k);
    int8_t* to = packed + static_cast<size_t>(panel) * k * kPanel;
    for (int column = 0; column < kPanel; ++column) {
      const int n = panel * kPanel + column;
      if (n >= linear->n) break;  // padding stays zero
      read_row(n, row.data());
      float most = 1e-12f;
      for (int i = 0; i < k; ++i) {
        if (smooth) row[i] /= smooth[i];
        most = std::fabs(row[i]) > most ? std::fabs(row[i]) : most;
      }
      const float inverse = 127.0f / most;
      int32_t sum = 0;
      for (int i = 0; i < k; ++i) {
        // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
        const float shifted = row[i] * inverse + 12582912.0f;
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        const int8_t value = static_cast<int8_t>(bits & 0xff);
        sum += value;
        to[static_cast<size_t>(i / kDepth) * kPanel * kDepth + column * kDepth + i % kDepth] = value;
      }
      scale[n] = most / 127.0f;
      offset[n] = (activation_shift - (after_gelu ? 0 : kSymmetricZero)) * sum;
      if (after_gelu) bias[n] -= kGeluFloor * scale[n] * static_cast<float>(sum);
    }
  }
};

void Weights::set(const std::string& name, const Tensor& tensor) {
  if (tensor.q4 && tensor.columns % 32) throw std::invalid_argument(name + ": Q4_0 rows are multiples of 32 values");
  tensors_[name] = tensor;
}

const Tensor& Weights::need(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::invalid_argument("the weights lack the tensor " + name);
  return found->second;
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
  for (const char* part : {".w", ".b"})
    if (need(name + part).rows * need(name + part).columns != shape_.hidden)
      throw std::invalid_argument(name + part + ": a norm has as many values as the hidden size");
  const float* gain = keep(name + ".w");
  return {gain, keep(name + ".b")};
}

void Weights::pack(const Kernels& kernels, Team& team) {
  const int h = shape_.hidden, f = shape_.ffn;
  const size_t layer_bytes = static_cast<size_t>(shape_.qkv_stride() + shape_.hidden_stride() + shape_.ffn_stride()) * h +
                             static_cast<size_t>(shape_.hidden_stride()) * f;
  const size_t outputs = shape_.qkv_stride() + 2 * shape_.hidden_stride() + shape_.ffn_stride();
  packed_.resize(layer_bytes * shape_.layers);
  offsets_.resize(outputs * shape_.layers);
  numbers_.resize((2 * outputs + 6 * round_lines(h)) * shape_.layers + static_cast<size_t>(shape_.positions + 3) * round_lines(h));
  words_ = need("emb.word");
  positions_ = keep("emb.pos");
  const Tensor& types = need("emb.type");
  float* type = take(h);
  types.read_row(0, type);
  type_ = type;
  embedding_norm_ = keep_norm("emb.ln");
  layers_.assign(shape_.layers, Layer{});

  std::vector<Job> jobs;
  int8_t* packed = packed_.data();
  int32_t* offset = offsets_.data();
  const auto add = [&](Linear& linear, const std::string& layer, const std::vector<const char*>& names, int rows, int k,
                       const Norm* input, bool after_gelu) {
    Job job{&linear, {}, input, after_gelu, packed, nullptr, nullptr, nullptr, offset};
    linear.n = rows * static_cast<int>(names.size());
    linear.k = k;
    job.scale = take(linear.n_padded());
    job.bias = take(linear.n_padded());
    if (input) job.smooth = take(k);
    for (size_t i = 0; i < names.size(); ++i) {
      const Tensor& weight = need(layer + names[i] + ".w");
      const Tensor& bias = need(layer + names[i] + ".b");
      if (weight.rows != rows || weight.columns != k || bias.rows * bias.columns != rows)
        throw std::invalid_argument(layer + names[i] + ": expected " + std::to_string(rows) + " x " + std::to_string(k) +
                                    " weights, got " + std::to_string(weight.rows) + " x " + std::to_string(weight.columns));
      job.parts.push_back(&weight);
      bias.read_row(0, job.bias + i * rows);
    }
    packed += static_cast<size_t>(linear.n_padded()) * k;
    offset += linear.n_padded();
    linear.packed = job.packed;
    linear.scale = job.scale;
    linear.bias = job.bias;
    linear.smooth = job.smooth;
    linear.offset = job.offset;
    jobs.push_back(job);
  };
  for (int i = 0; i < shape_.layers; ++i) {
    const std::string name = "l" + std::to_string(i) + ".";
    Layer& layer = layers_[i];
    layer.after_attention = keep_norm(name + "aln");
    layer.after_ffn = keep_norm(name + "oln");
    add(layer.qkv, name, {"q", "k", "v"}, h, h, i ? &layers_[i - 1].after_ffn : &embedding_norm_, false);
    add(layer.project, name, {"ao"}, h, h, nullptr, false);
    add(layer.expand, name, {"fi"}, f, h, &layer.after_attention, false);
    add(layer.contract, name, {"fo"}, h, f, nullptr, true);
  }

  std::vector<std::pair<const Job*, int>> panels;
  for (const Job& job : jobs)
    for (int panel = 0; panel < job.linear->panels(); ++panel) panels.emplace_back(&job, panel);
  std::atomic<size_t> next_job{0}, next_panel{0};
  Barrier smoothed(team.size());
  team.run([&](int) {
    for (size_t i; (i = next_job.fetch_add(1)) < jobs.size();)
      if (jobs[i].smooth) jobs[i].find_smoothing();
    smoothed.wait();
    for (size_t i; (i = next_panel.fetch_add(1)) < panels.size();)
      panels[i].first->pack_panel(panels[i].second, kernels.activation_shift);
  });
  tensors_.clear();
}

}  // namespace embedserve
