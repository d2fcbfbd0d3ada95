#include "model.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace embedserve {
namespace {

// Tokens of one piece: enough that streaming the weights once per piece is cheap, few enough that the states
// of a piece stay near the core.
constexpr int kPieceTokens = 192;
// Fewer rows than this in a block would wait for the weights, not for arithmetic: a batch without two such blocks is
// not divided.
constexpr int kLeastRows = 24;

int divide_up(int count, int by) { return (count + by - 1) / by; }

}  // namespace

Model::Model(const Shape& shape, const Kernels& kernels, int threads)
    : weights_(shape), kernels_(kernels), team_(threads), states_(team_.size()), scratch_(team_.size()) {}

void Model::pack() { weights_.pack(team_); }

// Under the lock, so that bytes() needs none and never waits for a batch.
void Model::count_working() {
  size_t total = 0;
  for (const States& states : states_) total += states.bytes();
  for (const Scratch& scratch : scratch_) total += scratch.bytes();
  working_.store(total, std::memory_order_relaxed);
}

// The caller has seen to all of it; this is what stands between a mistake of his and somebody else's memory.
void Model::check(const Batch& batch) const {
  const Shape& shape = weights_.shape();
  if (!weights_.packed()) throw std::invalid_argument("the weights are not packed");
  for (int i = 0; i < batch.sequences; ++i)
    if (const int length = batch.offsets[i + 1] - batch.offsets[i]; length < 1 || length > shape.positions)
      throw std::invalid_argument("a window has " + std::to_string(length) + " ids, allowed are 1 to " + std::to_string(shape.positions));
  for (int i = batch.offsets[0]; i < batch.offsets[batch.sequences]; ++i)
    if (batch.ids[i] < 0 || batch.ids[i] >= shape.vocabulary)
      throw std::invalid_argument("the vocabulary has no id " + std::to_string(batch.ids[i]));
}

Model::Piece Model::make_piece(const Batch& batch, const int* sequences, int count) const {
  Piece piece{&batch, {sequences, sequences + count}, {0}};
  for (int i = 0; i < count; ++i) {
    const int length = batch.offsets[sequences[i] + 1] - batch.offsets[sequences[i]];
    piece.starts.push_back(piece.starts.back() + length);
    piece.longest = std::max(piece.longest, length);
  }
  return piece;
}

void Model::prepare(States& states, const Piece& piece) const {
  const Shape& shape = weights_.shape();
  const size_t rows = piece.rows();
  states.x.resize(rows * shape.hidden_stride());
  states.q.resize(rows * shape.hidden);
  states.k.resize(rows * shape.hidden);
  states.v.resize(rows * shape.hidden);
  states.q_scale.resize(rows * shape.heads);
  states.k_scale.resize(rows * shape.heads);
  states.context.resize(rows * shape.hidden_stride());
}

void Model::encode(const Batch& batch) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (batch.sequences < 1) return;
  check(batch);
  run(batch);
  count_working();
}

// How a batch is shared out. Whole sequences per thread need no meeting, so that is the rule; one long text or
// an uneven rest is worked on by all threads together. Either way each number is computed by the same
// instructions on the same operands, so vectors do not depend on the choice.
void Model::run(const Batch& batch) {
  const int threads = team_.size();
  std::vector<int> order(batch.sequences);
  std::iota(order.begin(), order.end(), 0);
  const auto length = [&](int i) { return batch.offsets[i + 1] - batch.offsets[i]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return length(a) > length(b); });
  const int total = batch.offsets[batch.sequences] - batch.offsets[0];

  const int target = std::max(1, std::min(kPieceTokens, total / threads));
  std::vector<Piece> pieces;
  for (int first = 0, last = 0, tokens = 0; last < batch.sequences;) {
    tokens += length(order[last++]);
    const bool full = last < batch.sequences && tokens + length(order[last]) > target + length(order[last]) / 2;
    if (full || last == batch.sequences) {
      pieces.push_back(make_piece(batch, order.data() + first, last - first));
      first = last;
      tokens = 0;
    }
  }
  std::vector<int> load(threads, 0);
  for (const Piece& piece : pieces) *std::min_element(load.begin(), load.end()) += piece.rows();
  const bool even = *std::max_element(load.begin(), load.end()) * threads <= total * 1.12;

  if (even || total < 2 * kLeastRows) {
    std::atomic<size_t> next{0};
    const std::function<void(int)> task = [&](int rank) {
      for (size_t i; (i = next.fetch_add(1)) < pieces.size();) walk(pieces[i], states_[rank], rank, false);
    };
    return pieces.size() == 1 ? task(0) : team_.run(task);
  }
  for (int first = 0, last = 0, tokens = 0; last < batch.sequences;) {
    tokens += length(order[last++]);
    if (tokens >= kPieceTokens * threads || last == batch.sequences) {
      walk(make_piece(batch, order.data() + first, last - first), states_[0], 0, true);
      first = last;
      tokens = 0;
    }
  }
}

// Between one layer's attention and the next a row needs no other, so a block of rows goes all that way at once.
// Together, blocks and heads are taken by whichever thread is free: one that the system stops holds up no more than
// what it has taken.
void Model::walk(const Piece& piece, States& states, int rank, bool together) {
  prepare(states, piece);
  const auto each = [&](int count, int chunk, const auto& work) {
    if (together) return team_.share(count, chunk, work);
    for (int begin = 0; begin < count; begin += chunk) work(begin, std::min(begin + chunk, count), rank);
  };
  const int rows = piece.rows(), shares = together ? team_.size() : 1;
  const int block = std::max(kLeastRows, divide_up(rows, shares * divide_up(rows, shares * kRowBlock)));
  const std::vector<Layer>& layers = weights_.layers();
  for (size_t i = 0; i <= layers.size(); ++i) {
    each(rows, block, [&](int begin, int end, int rank) {
      if (i == 0)
        embed(piece, states, begin, end);
      else
        finish_layer(layers[i - 1], states, scratch_[rank], begin, end);
      if (i < layers.size()) begin_layer(layers[i], states, scratch_[rank], begin, end);
    });
    if (i < layers.size())
      each(static_cast<int>(piece.sequences.size()) * weights_.shape().heads, 1,
           [&](int item, int, int rank) { attend(piece, states, scratch_[rank], item); });
  }
  pool(piece, states.x.data());
}

// States to what attention reads.
void Model::begin_layer(const Layer& layer, States& states, Scratch& own, int begin, int end) const {
  const Shape& shape = weights_.shape();
  const int stride = shape.hidden_stride();
  own.mid.resize(static_cast<size_t>(end - begin) * shape.qkv_stride());
  const Activations in = quantise(states.x.data() + static_cast<size_t>(begin) * stride, stride, end - begin, layer.qkv, own);
  multiply(in, layer.qkv, Epilogue::kStore, nullptr, own.mid.data(), shape.qkv_stride());
  for (int row = begin; row < end; ++row)
    kernels_.split_heads(own.mid.data() + static_cast<size_t>(row - begin) * shape.qkv_stride(), shape,
                         states.rows().from(row, shape));
}

// What attention found to the states behind the layer.
void Model::finish_layer(const Layer& layer, States& states, Scratch& own, int begin, int end) const {
  const Shape& shape = weights_.shape();
  const int stride = shape.hidden_stride(), rows = end - begin;
  const size_t at = static_cast<size_t>(begin) * stride;
  float* x = states.x.data() + at;
  own.mid.resize(static_cast<size_t>(rows) * shape.ffn_stride());
  const Activations context = quantise(states.context.data() + at, stride, rows, layer.project, own);
  multiply(context, layer.project, Epilogue::kResidual, x, x, stride);
  normalise(x, layer.after_attention, rows, x);
  const Activations normed = quantise(x, stride, rows, layer.expand, own);
  multiply(normed, layer.expand, Epilogue::kGelu, nullptr, own.mid.data(), shape.ffn_stride());
  const Activations mid = quantise(own.mid.data(), shape.ffn_stride(), rows, layer.contract, own);
  multiply(mid, layer.contract, Epilogue::kResidual, x, x, stride);
  normalise(x, layer.after_ffn, rows, x);
}

void Model::embed(const Piece& piece, States& states, int begin, int end) const {
  const Shape& shape = weights_.shape();
  const Tensor& words = weights_.words();
  for (size_t i = 0; i < piece.sequences.size(); ++i) {
    const int32_t* ids = piece.batch->ids + piece.batch->offsets[piece.sequences[i]];
    for (int row = std::max(begin, piece.starts[i]); row < std::min(end, piece.starts[i + 1]); ++row) {
      const int position = row - piece.starts[i];
      const size_t id = ids[position];
      const uint8_t* blocks = words.q4 ? words.q4 + id * (shape.hidden / 32 * 18) : nullptr;
      const float* word = words.fp32 ? words.fp32 + id * shape.hidden : nullptr;
      float* out = states.x.data() + static_cast<size_t>(row) * shape.hidden_stride();
      kernels_.embed(blocks, word, weights_.positions() + static_cast<size_t>(position) * shape.hidden, weights_.type(),
                     shape.hidden, out);
      normalise(out, weights_.embedding_norm(), 1, out);
    }
  }
}

void Model::attend(const Piece& piece, States& states, Scratch& own, int item) const {
  const Shape& shape = weights_.shape();
  const int sequences = static_cast<int>(piece.sequences.size()), i = item % sequences;
  own.attention.resize(kernels_.attention_bytes(shape, piece.longest));
  const size_t start = piece.starts[i];
  const AttentionTask task{states.rows().from(start, shape),
                           piece.starts[i + 1] - piece.starts[i],
                           item / sequences,
                           states.context.data() + start * shape.hidden_stride(),
                           shape.hidden_stride()};
  kernels_.attention(task, shape, own.attention.data());
}

void Model::pool(const Piece& piece, const float* x) const {
  const Shape& shape = weights_.shape();
  for (size_t i = 0; i < piece.sequences.size(); ++i) {
    const int sequence = piece.sequences[i];
    const float* weights = piece.batch->pooling + piece.batch->offsets[sequence];
    float* out = piece.batch->out + static_cast<size_t>(sequence) * shape.hidden;
    std::fill(out, out + shape.hidden, 0.0f);
    float total = 0;
    for (int row = piece.starts[i]; row < piece.starts[i + 1]; ++row, ++weights) {
      if (*weights == 0) continue;
      kernels_.accumulate(x + static_cast<size_t>(row) * shape.hidden_stride(), *weights, shape.hidden, out);
      total += *weights;
    }
    if (total != 0)
      for (int j = 0; j < shape.hidden; ++j) out[j] /= total;
  }
}

Activations Model::quantise(const float* x, int stride, int rows, const Linear& linear, Scratch& own) const {
  own.bytes_in.resize(static_cast<size_t>(rows) * linear.k);
  own.scales.resize(rows);
  for (int i = 0; i < rows; ++i)
    own.scales[i] = kernels_.quantise(x + static_cast<size_t>(i) * stride, linear.k,
                                      own.bytes_in.data() + static_cast<size_t>(i) * linear.k);
  return {own.bytes_in.data(), own.scales.data(), rows};
}

void Model::multiply(const Activations& in, const Linear& linear, Epilogue epilogue, const float* residual, float* out,
                     int stride) const {
  kernels_.gemm(in, linear, epilogue, residual, out, stride, 0, linear.panels());
}

void Model::normalise(const float* x, const Norm& norm, int rows, float* out) const {
  const Shape& shape = weights_.shape();
  for (int i = 0; i < rows; ++i) {
    const size_t at = static_cast<size_t>(i) * shape.hidden_stride();
    kernels_.layer_norm(x + at, norm.gain, norm.bias, shape.hidden, shape.eps, out + at);
  }
}

}  // namespace embedserve
