#include "model.h"

#include <algorithm>
#include <numeric>

namespace embedserve {
namespace {

// Tokens of one piece: enough that streaming the weights once per piece is cheap, few enough that the states
// of a piece stay near the core.
constexpr int kPieceTokens = 192;
// A batch with fewer rows a thread than this splits the layers' outputs instead of the rows.
constexpr int kPanelRows = 32;

}  // namespace

Model::Model(const Shape& shape, const Kernels& kernels, int threads)
    : weights_(shape), kernels_(kernels), team_(threads), states_(team_.size()), scratch_(team_.size()) {}

void Model::pack() { weights_.pack(team_); }

size_t Model::bytes() const {
  size_t total = weights_.bytes();
  for (const States& states : states_) total += states.bytes();
  for (const Scratch& scratch : scratch_) total += scratch.bytes();
  return total;
}

Model::Piece Model::make_piece(const Batch& batch, const int* sequences, int count) const {
  Piece piece{&batch, {sequences, sequences + count}, {0}};
  for (int i = 0; i < count; ++i)
    piece.starts.push_back(piece.starts.back() + batch.offsets[sequences[i] + 1] - batch.offsets[sequences[i]]);
  return piece;
}

void Model::prepare(States& states, const Piece& piece, bool by_panels) const {
  const Shape& shape = weights_.shape();
  const size_t rows = piece.rows();
  states.x.resize(rows * shape.hidden_stride());
  states.q.resize(rows * shape.hidden);
  states.k.resize(rows * shape.hidden);
  states.v.resize(rows * shape.hidden);
  states.q_scale.resize(rows * shape.heads);
  states.k_scale.resize(rows * shape.heads);
  states.context.resize(rows * shape.hidden_stride());
  if (by_panels) {
    states.qkv.resize(rows * shape.qkv_stride());
    states.mid.resize(rows * shape.ffn_stride());
  }
}

// How a batch is shared out. Whole sequences per thread need no meeting, so that is the rule; one long text or
// an uneven rest is worked on by all threads together. Either way each number is computed by the same
// instructions on the same operands, so vectors do not depend on the choice.
void Model::encode(const Batch& batch) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!batch.sequences) return;
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

  if (threads == 1 || even) {
    std::atomic<size_t> next{0};
    const std::function<void(int)> task = [&](int rank) {
      for (size_t i; (i = next.fetch_add(1)) < pieces.size();) {
        prepare(states_[rank], pieces[i], false);
        walk_rows(pieces[i], states_[rank], scratch_[rank], Member{0, 1, nullptr});
      }
    };
    return pieces.size() == 1 ? task(0) : team_.run(task);
  }
  Barrier barrier(threads);
  pieces.clear();
  for (int first = 0, last = 0, tokens = 0; last < batch.sequences;) {
    tokens += length(order[last++]);
    if (tokens >= kPieceTokens * threads || last == batch.sequences) {
      pieces.push_back(make_piece(batch, order.data() + first, last - first));
      first = last;
      tokens = 0;
    }
  }
  for (const Piece& piece : pieces) {
    const bool by_panels = piece.rows() < kPanelRows * threads;
    prepare(states_[0], piece, by_panels);
    const bool done = team_.run_together([&](int rank) {
      const Member member{rank, threads, &barrier};
      (this->*(by_panels ? &Model::walk_panels : &Model::walk_rows))(piece, states_[0], scratch_[rank], member);
    });
    if (!done) walk_rows(piece, states_[0], scratch_[0], Member{0, 1, nullptr});
  }
}

// Each member takes a share of the rows through all linear layers and a share of the heads through attention.
void Model::walk_rows(const Piece& piece, States& states, Scratch& own, const Member& member) const {
  const Shape& shape = weights_.shape();
  const int stride = shape.hidden_stride(), begin = member.begin(piece.rows()), end = member.end(piece.rows());
  // One block of outputs, wide enough for q, k and v as well as for the feed-forward part.
  own.mid.resize(static_cast<size_t>(kRowBlock) * std::max(shape.ffn_stride(), shape.qkv_stride()));
  const int items = static_cast<int>(piece.sequences.size()) * shape.heads;
  float* x = states.x.data();
  embed(piece, x, begin, end);
  for (const Layer& layer : weights_.layers()) {
    for (int row = begin; row < end; row += kRowBlock) {
      const int rows = std::min(kRowBlock, end - row);
      const Activations in = quantise(x + static_cast<size_t>(row) * stride, stride, rows, layer.qkv, own);
      kernels_.gemm(in, layer.qkv, Epilogue::kStore, nullptr, own.mid.data(), shape.qkv_stride(), 0, layer.qkv.panels());
      split_heads(own.mid.data(), states, row, rows, 0, shape.heads);
    }
    member.meet();
    attend(piece, states, own, member.begin(items), member.end(items));
    member.meet();
    for (int row = begin; row < end; row += kRowBlock) {
      const int rows = std::min(kRowBlock, end - row);
      float* block = x + static_cast<size_t>(row) * stride;
      const Activations context =
          quantise(states.context.data() + static_cast<size_t>(row) * stride, stride, rows, layer.project, own);
      kernels_.gemm(context, layer.project, Epilogue::kResidual, block, block, stride, 0, layer.project.panels());
      normalise(block, layer.after_attention, rows, block);
      const Activations normed = quantise(block, stride, rows, layer.expand, own);
      kernels_.gemm(normed, layer.expand, Epilogue::kGelu, nullptr, own.mid.data(), shape.ffn_stride(), 0, layer.expand.panels());
      const Activations mid = quantise(own.mid.data(), shape.ffn_stride(), rows, layer.contract, own);
      kernels_.gemm(mid, layer.contract, Epilogue::kResidual, block, block, stride, 0, layer.contract.panels());
      normalise(block, layer.after_ffn, rows, block);
    }
  }
  member.meet();
  const int sequences = static_cast<int>(piece.sequences.size());
  pool(piece, x, member.begin(sequences), member.end(sequences));
  member.meet();
}

// Each member computes a share of every layer's outputs for all rows, for batches whose cost is reading the
// weights. Row work is repeated by every member on a copy of its own: cheaper than one more meeting.
void Model::walk_panels(const Piece& piece, States& states, Scratch& own, const Member& member) const {
  const Shape& shape = weights_.shape();
  const int rows = piece.rows(), stride = shape.hidden_stride();
  own.x.resize(static_cast<size_t>(rows) * stride);
  float *x = own.x.data(), *shared = states.x.data();
  const int sequences = static_cast<int>(piece.sequences.size());
  const int first_head = member.begin(shape.heads), last_head = member.end(shape.heads);
  const auto share = [&](const Activations& in, const Linear& linear, Epilogue epilogue, float* out, int out_stride) {
    kernels_.gemm(in, linear, epilogue, x, out, out_stride, member.begin(linear.panels()), member.end(linear.panels()));
    member.meet();
  };
  embed(piece, x, 0, rows);
  for (const Layer& layer : weights_.layers()) {
    share(quantise(x, stride, rows, layer.qkv, own), layer.qkv, Epilogue::kStore, states.qkv.data(), shape.qkv_stride());
    split_heads(states.qkv.data(), states, 0, rows, first_head, last_head);
    attend(piece, states, own, first_head * sequences, last_head * sequences);
    member.meet();
    share(quantise(states.context.data(), stride, rows, layer.project, own), layer.project, Epilogue::kResidual, shared, stride);
    normalise(shared, layer.after_attention, rows, x);
    share(quantise(x, stride, rows, layer.expand, own), layer.expand, Epilogue::kGelu, states.mid.data(), shape.ffn_stride());
    share(quantise(states.mid.data(), shape.ffn_stride(), rows, layer.contract, own), layer.contract, Epilogue::kResidual,
          shared, stride);
    normalise(shared, layer.after_ffn, rows, x);
  }
  pool(piece, x, member.begin(sequences), member.end(sequences));
  member.meet();
}

void Model::embed(const Piece& piece, float* x, int begin, int end) const {
  const Shape& shape = weights_.shape();
  const Tensor& words = weights_.words();
  for (size_t i = 0; i < piece.sequences.size(); ++i) {
    const int32_t* ids = piece.batch->ids + piece.batch->offsets[piece.sequences[i]];
    for (int row = std::max(begin, piece.starts[i]); row < std::min(end, piece.starts[i + 1]); ++row) {
      const int position = row - piece.starts[i];
      const size_t id = ids[position];
      const uint8_t* blocks = words.q4 ? words.q4 + id * (shape.hidden / 32 * 18) : nullptr;
      const float* word = words.fp32 ? words.fp32 + id * shape.hidden : nullptr;
      float* out = x + static_cast<size_t>(row) * shape.hidden_stride();
      kernels_.embed(blocks, word, weights_.positions() + static_cast<size_t>(position) * shape.hidden, weights_.type(),
                     shape.hidden, out);
      normalise(out, weights_.embedding_norm(), 1, out);
    }
  }
}

void Model::split_heads(const float* qkv, States& states, int row, int rows, int head_begin, int head_end) const {
  const Shape& shape = weights_.shape();
  for (int i = 0; i < rows; ++i)
    kernels_.split_heads(qkv + static_cast<size_t>(i) * shape.qkv_stride(), shape, head_begin, head_end,
                         states.rows().from(row + i, shape));
}

void Model::attend(const Piece& piece, States& states, Scratch& own, int begin, int end) const {
  const Shape& shape = weights_.shape();
  const int sequences = static_cast<int>(piece.sequences.size());
  int longest = 0;
  for (size_t i = 0; i < piece.sequences.size(); ++i) longest = std::max(longest, piece.starts[i + 1] - piece.starts[i]);
  own.attention.resize(kernels_.attention_bytes(shape, longest));
  for (int item = begin; item < end; ++item) {
    const int i = item % sequences;
    const size_t start = piece.starts[i];
    const AttentionTask task{states.rows().from(start, shape),
                             piece.starts[i + 1] - piece.starts[i],
                             item / sequences,
                             states.context.data() + start * shape.hidden_stride(),
                             shape.hidden_stride()};
    kernels_.attention(task, shape, own.attention.data());
  }
}

void Model::pool(const Piece& piece, const float* x, int begin, int end) const {
  const Shape& shape = weights_.shape();
  for (int i = begin; i < end; ++i) {
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

void Model::normalise(const float* x, const Norm& norm, int rows, float* out) const {
  const Shape& shape = weights_.shape();
  for (int i = 0; i < rows; ++i) {
    const size_t at = static_cast<size_t>(i) * shape.hidden_stride();
    kernels_.layer_norm(x + at, norm.gain, norm.bias, shape.hidden, shape.eps, out + at);
  }
}

}  // namespace embedserve
