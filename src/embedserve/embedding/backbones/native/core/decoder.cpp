#include "decoder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace embedserve {
namespace {

// Rows of one piece: enough that reading the weights once per piece is cheap, few enough that states stay small.
constexpr int kPieceRows = 2048;
constexpr int kPieceKeys = 8192;  // positions with keys, kept ones and the padding of blocks included
// A piece with fewer rows a thread than this splits the layers' outputs instead of the rows.
constexpr int kPanelRows = 32;
// Working memory beyond this goes back after a batch: one long text should not be paid for ever after.
constexpr size_t kIdleBytes = size_t{128} << 20;

}  // namespace

// How a piece is shared out: in blocks of rows that each thread takes and walks alone, or as one block that all
// threads work on, each on a share of the outputs. Either way each number is computed by the same instructions on the
// same operands, so vectors do not depend on the choice.
struct Decoder::Schedule {
  const bool together;
  Barrier barrier;
  const int threads;
  std::vector<std::atomic<int>> next;  // block to take, a phase

  Schedule(bool together, int threads, int phases) : together(together), barrier(threads), threads(threads), next(phases) {}
  // Runs body(begin, end) for this thread's blocks of `rows` rows, then waits for the others.
  template <class F>
  void each_block(int phase, int rows, const Member& team, F&& body) {
    if (together) {
      body(0, rows);
    } else {
      const int least = (rows + kRowBlock - 1) / kRowBlock, count = std::max(1, (least + threads - 1) / threads * threads);
      const int size = std::max(1, round_up((rows + count - 1) / count, 6));
      for (int begin; (begin = next[phase].fetch_add(1) * size) < rows;) body(begin, std::min(rows, begin + size));
    }
    team.meet();
  }
};

Decoder::Decoder(const DecoderShape& shape, const Kernels& kernels, int threads)
    : weights_(shape), kernels_(kernels), team_(threads), scratch_(team_.size()), rows_(team_.size()), attention_(team_.size()) {}

// Under the lock, so that bytes() needs none and never waits for a batch.
void Decoder::count_working() {
  size_t total = states_.bytes() + angles_.bytes();
  for (const Scratch& scratch : scratch_) total += scratch.bytes();
  for (const auto& row : rows_) total += row.bytes();
  for (const auto& attention : attention_) total += attention.bytes();
  working_.store(total, std::memory_order_relaxed);
}

void Decoder::Layout::add(int sequence, int first, int count) {
  segments.push_back({sequence, rows, first, count});
  rows += count;
}

Decoder::Piece Decoder::make_piece(const DecoderBatch& batch, int first, int last) const {
  const DecoderShape& shape = weights_.shape();
  Piece piece{&batch, {}, {}, {}};
  for (int index = first; index < last; ++index) {
    const int before = batch.prefix_lengths[index], rows = batch.offsets[index + 1] - batch.offsets[index];
    const int place = static_cast<int>(piece.sequences.size());
    piece.sequences.push_back({index, before, rows, piece.keys, piece.values});
    const Sequence& sequence = piece.sequences.back();
    piece.keys += static_cast<size_t>(sequence.blocks()) * kKeyBlock * shape.kv_width();
    piece.values += static_cast<size_t>(sequence.total()) * shape.kv_width();
    piece.all.add(place, before, rows);
    const float* weights = batch.pooling + batch.offsets[index];
    for (int begin = 0, end; begin < rows; begin = end) {
      end = begin + 1;
      while (end < rows && (weights[end] == 0) == (weights[begin] == 0)) ++end;
      if (weights[begin] != 0) piece.pooled.add(place, before + begin, end - begin);
    }
  }
  return piece;
}

void Decoder::encode(const DecoderBatch& batch) {
  std::lock_guard<std::mutex> lock(mutex_);
  check(batch);
  const int threads = team_.size();
  for (int first = 0, last = 0; last < batch.sequences; first = last) {
    int rows = 0, keys = 0;
    while (last < batch.sequences) {
      const int more = batch.offsets[last + 1] - batch.offsets[last];
      const int more_keys = round_up(more + batch.prefix_lengths[last], kKeyBlock);
      if (last > first && (rows + more > kPieceRows || keys + more_keys > kPieceKeys)) break;
      rows += more;
      keys += more_keys;
      ++last;
    }
    const Piece piece = make_piece(batch, first, last);
    prepare(piece);
    Schedule schedule(threads > 1 && rows < kPanelRows * threads, threads, 2 * weights_.shape().layers);
    team_.run([&](int rank) {
      try {
        walk(piece, schedule, rank);
      } catch (...) {
        schedule.barrier.abandon(std::current_exception());
        throw;
      }
    });
  }
  if (states_.bytes() > kIdleBytes) states_ = States{};
  count_working();
}

// The caller has seen to all of it; this is what stands between a mistake of his and somebody else's memory.
void Decoder::check(const DecoderBatch& batch) const {
  const DecoderShape& shape = weights_.shape();
  if (!weights_.last_norm()) throw std::invalid_argument("the weights are not packed");
  for (int i = 0; i < batch.sequences; ++i) {
    const int before = batch.prefix_lengths[i], rows = batch.offsets[i + 1] - batch.offsets[i];
    if (before < 0 || rows < 0 || before > shape.positions - rows || (before && !batch.prefixes[i]))
      throw std::invalid_argument("a sequence of " + std::to_string(rows) + " ids after " + std::to_string(before) +
                                  " has no place among " + std::to_string(shape.positions) + " positions");
  }
  const int first = batch.sequences > 0 ? batch.offsets[0] : 0, last = batch.sequences > 0 ? batch.offsets[batch.sequences] : 0;
  for (int i = first; i < last; ++i)
    if (batch.ids[i] < 0 || batch.ids[i] >= shape.vocabulary)
      throw std::invalid_argument("the vocabulary has no id " + std::to_string(batch.ids[i]));
}

void Decoder::prepare(const Piece& piece) {
  states_.x.resize(static_cast<size_t>(piece.all.rows) * weights_.shape().hidden_stride());
  states_.keys.resize(piece.keys);
  states_.values.resize(piece.values);
  int longest = 0;
  for (const Sequence& sequence : piece.sequences) longest = std::max(longest, sequence.total());
  grow_angles(longest);
}

// As the reference does it: frequencies and angles in fp32.
void Decoder::grow_angles(int positions) {
  if (positions <= angles_count_) return;
  const int d = weights_.shape().head_size, half = d / 2, count = round_up(positions, 1024);
  angles_count_ = 0;  // should there be no memory for more
  angles_.resize(static_cast<size_t>(count) * d);
  for (int i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(d);
    const float frequency = 1.0f / std::pow(weights_.shape().rope_theta, exponent);
    for (int position = 0; position < count; ++position) {
      const float angle = static_cast<float>(position) * frequency;
      float* at = angles_.data() + static_cast<size_t>(position) * d + i;
      at[0] = static_cast<float>(std::cos(static_cast<double>(angle)));
      at[half] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  angles_count_ = count;
}

void Decoder::walk(const Piece& piece, Schedule& schedule, int rank) {
  const Member team{rank, schedule.threads, &schedule.barrier}, alone{0, 1, nullptr};
  const Member& worker = schedule.together ? team : alone;
  Scratch& scratch = scratch_[schedule.together ? 0 : rank];
  rows_[rank].resize(weights_.shape().hidden_stride());
  if (schedule.together && rank == 0) {  // what members share may not grow under their hands
    const DecoderShape& shape = weights_.shape();
    const size_t rows = piece.all.rows;
    scratch.heads.resize(rows * std::max(shape.kv_stride(), shape.q_stride()));
    scratch.mid.resize(rows * group_count(shape.ffn) * 2 * kGroup);
    scratch.in.reserve(piece.all.rows, std::max(shape.hidden, shape.q_width()));
    scratch.gated.reserve(piece.all.rows, shape.ffn);
  }
  embed(piece, team.begin(piece.all.rows), team.end(piece.all.rows));
  team.meet();

  const int sequences = static_cast<int>(piece.sequences.size()), layers = weights_.shape().layers;
  const int first = team.begin(sequences), last = team.end(sequences);
  for (int i = 0; i < layers; ++i) {
    const DecoderLayer& layer = weights_.layers()[i];
    for (int at = first; at < last; ++at) load_prefix(piece, piece.sequences[at], i);
    schedule.each_block(2 * i, piece.all.rows, team, [&](int begin, int end) {
      compute_keys(piece, layer, Block{piece.all, begin, end, worker, scratch, rank});
    });
    for (int at = first; at < last; ++at) keep(piece, piece.sequences[at], i);
    const Layout& layout = i + 1 < layers ? piece.all : piece.pooled;
    if (i + 1 == layers) {  // from here on only rows that are pooled matter
      if (rank == 0) compact(piece);
      team.meet();
    }
    schedule.each_block(2 * i + 1, layout.rows, team, [&](int begin, int end) {
      compute_rest(piece, layer, Block{layout, begin, end, worker, scratch, rank});
    });
  }
  pool(piece, first, last);
}

void Decoder::embed(const Piece& piece, int begin, int end) {
  for (const Segment& segment : piece.all.segments) {
    const int32_t* ids = piece.batch->ids + piece.batch->offsets[piece.sequences[segment.sequence].index];
    for (int row = std::max(begin, segment.row); row < std::min(end, segment.row + segment.count); ++row)
      weights_.words().read_row(ids[row - segment.row], state(row));
  }
}

void Decoder::quantise_normed(const float* gain, const Block& block) {
  const DecoderShape& shape = weights_.shape();
  GroupedBytes& in = block.scratch.in;
  if (block.member.size == 1) in.reserve(block.rows(), shape.hidden);
  float* normed = rows_[block.rank].data();
  for (int row = block.member.begin(block.rows()); row < block.member.end(block.rows()); ++row) {
    kernels_.decoder->rms_norm(state(block.begin + row), gain, shape.hidden, shape.eps, normed);
    in.quantise(kernels_, normed, 0, shape.hidden, row, block.rows());
  }
  block.member.meet();
}

void Decoder::multiply_shared(const GroupedBytes& in, const GroupedLinear& linear, bool add, float* out, int stride,
                              const Block& block) {
  multiply(kernels_, in, block.rows(), linear, add, out, stride, block.member.begin(linear.panels()), block.member.end(linear.panels()));
  block.member.meet();
}

void Decoder::compute_keys(const Piece& piece, const DecoderLayer& layer, const Block& block) {
  const int stride = weights_.shape().kv_stride();
  if (block.member.size == 1) block.scratch.heads.resize(static_cast<size_t>(block.rows()) * stride);
  float* heads = block.scratch.heads.data();
  quantise_normed(layer.before_attention, block);
  multiply_shared(block.scratch.in, layer.keys_values, false, heads, stride, block);
  const int begin = block.begin + block.member.begin(block.rows()), end = block.begin + block.member.end(block.rows());
  for (const Segment& segment : block.layout.segments)
    for (int row = std::max(begin, segment.row); row < std::min(end, segment.row + segment.count); ++row)
      store_key(piece.sequences[segment.sequence], segment.first + row - segment.row,
                heads + static_cast<size_t>(row - block.begin) * stride, layer, rows_[block.rank].data());
}

void Decoder::store_key(const Sequence& sequence, int position, const float* row, const DecoderLayer& layer, float* turned) {
  const DecoderShape& shape = weights_.shape();
  const int d = shape.head_size;
  const size_t block = static_cast<size_t>(position / kKeyBlock) * kKeyBlock * d + position % kKeyBlock;
  for (int head = 0; head < shape.kv_heads; ++head) {
    kernels_.decoder->rotate_head(row + head * d, layer.key_norm, cosines(position), cosines(position) + d / 2, d, shape.eps, turned);
    float* keys = states_.keys.data() + sequence.keys + static_cast<size_t>(head) * sequence.blocks() * kKeyBlock * d + block;
    for (int i = 0; i < d; ++i) keys[i * kKeyBlock] = turned[i];
    float* values = states_.values.data() + sequence.values + (static_cast<size_t>(head) * sequence.total() + position) * d;
    memcpy(values, row + shape.kv_width() + head * d, sizeof(float) * d);
  }
}

void Decoder::compute_rest(const Piece& piece, const DecoderLayer& layer, const Block& block) {
  const DecoderShape& shape = weights_.shape();
  const int stride = shape.q_stride(), d = shape.head_size;
  Scratch& scratch = block.scratch;
  if (block.member.size == 1) scratch.heads.resize(static_cast<size_t>(block.rows()) * stride);
  float* heads = scratch.heads.data();
  quantise_normed(layer.before_attention, block);
  multiply_shared(scratch.in, layer.queries, false, heads, stride, block);
  const int begin = block.begin + block.member.begin(block.rows()), end = block.begin + block.member.end(block.rows());
  for (const Segment& segment : block.layout.segments)
    for (int row = std::max(begin, segment.row); row < std::min(end, segment.row + segment.count); ++row) {
      const float* angles = cosines(segment.first + row - segment.row);
      float* x = heads + static_cast<size_t>(row - block.begin) * stride;
      for (int head = 0; head < shape.heads; ++head, x += d)
        kernels_.decoder->rotate_head(x, layer.query_norm, angles, angles + d / 2, d, shape.eps, x);
    }
  block.member.meet();
  attend(piece, block);
  block.member.meet();
  if (block.member.size == 1) scratch.in.reserve(block.rows(), shape.q_width());
  for (int row = begin; row < end; ++row)
    scratch.in.quantise(kernels_, heads + static_cast<size_t>(row - block.begin) * stride, 0, shape.q_width(), row - block.begin, block.rows());
  block.member.meet();
  multiply_shared(scratch.in, layer.project, true, state(block.begin), shape.hidden_stride(), block);
  feed_forward(layer, block);
}

// Items are segments times heads of keys.
void Decoder::attend(const Piece& piece, const Block& block) {
  const DecoderShape& shape = weights_.shape();
  const int d = shape.head_size, wide = shape.group() * d;
  std::vector<Segment> parts;
  for (const Segment& segment : block.layout.segments) {
    const int begin = std::max(block.begin, segment.row), end = std::min(block.end, segment.row + segment.count);
    if (begin < end) parts.push_back({segment.sequence, begin, segment.first + begin - segment.row, end - begin});
  }
  const int items = static_cast<int>(parts.size()) * shape.kv_heads;
  Array<char>& own = attention_[block.rank];
  for (int item = block.member.begin(items); item < block.member.end(items); ++item) {
    const Segment& part = parts[item / shape.kv_heads];
    const Sequence& sequence = piece.sequences[part.sequence];
    const size_t head = item % shape.kv_heads;
    const CausalTask task{states_.keys.data() + sequence.keys + head * sequence.blocks() * kKeyBlock * d,
                          states_.values.data() + sequence.values + head * sequence.total() * d,
                          block.scratch.heads.data() + static_cast<size_t>(part.row - block.begin) * shape.q_stride() + head * wide,
                          shape.q_stride(),
                          shape.group(),
                          d,
                          part.first,
                          part.count};
    own.resize(kernels_.decoder->attend_bytes(task));
    kernels_.decoder->attend(task, own.data());
  }
}

void Decoder::feed_forward(const DecoderLayer& layer, const Block& block) {
  const DecoderShape& shape = weights_.shape();
  const bool alone = block.member.size == 1;
  Scratch& scratch = block.scratch;
  const int rows = block.rows(), begin = block.member.begin(rows), end = block.member.end(rows);
  const size_t chunk_size = static_cast<size_t>(rows) * 2 * kGroup;
  quantise_normed(layer.before_ffn, block);
  if (alone) {
    scratch.mid.resize(chunk_size);  // each chunk is used up before the next
    scratch.gated.reserve(rows, shape.ffn);
  }
  for (size_t chunk = 0; chunk < layer.expand.size(); ++chunk) {
    const GroupedLinear& expand = layer.expand[chunk];
    const int width = expand.n / 2, stride = expand.n_padded();
    float* mid = scratch.mid.data() + (alone ? 0 : chunk * chunk_size);
    multiply_shared(scratch.in, expand, false, mid, stride, block);
    for (int row = begin; row < end; ++row) {
      float* gate = mid + static_cast<size_t>(row) * stride;
      kernels_.decoder->swiglu(gate, gate + width, width, gate);
      scratch.gated.quantise(kernels_, gate, static_cast<int>(chunk) * kGroup, width, row, rows);
    }
  }
  block.member.meet();
  multiply_shared(scratch.gated, layer.contract, true, state(block.begin), shape.hidden_stride(), block);
}

void Decoder::load_prefix(const Piece& piece, const Sequence& sequence, int layer) {
  const DecoderShape& shape = weights_.shape();
  const size_t n = sequence.before, d = shape.head_size, width = shape.kv_width();
  if (!n) return;
  const float* keys = piece.batch->prefixes[sequence.index] + layer * 2 * width * n;
  const float* values = keys + width * n;
  for (size_t head = 0; head < static_cast<size_t>(shape.kv_heads); ++head) {
    float* to = states_.keys.data() + sequence.keys + head * sequence.blocks() * kKeyBlock * d;
    for (size_t at = 0; at < n; at += kKeyBlock, to += kKeyBlock * d)
      for (size_t i = 0; i < d; ++i)
        memcpy(to + i * kKeyBlock, keys + (head * d + i) * n + at, sizeof(float) * std::min(n - at, size_t{kKeyBlock}));
    memcpy(states_.values.data() + sequence.values + head * sequence.total() * d, values + head * n * d, sizeof(float) * n * d);
  }
}

void Decoder::keep(const Piece& piece, const Sequence& sequence, int layer) {
  float* to = piece.batch->kept ? piece.batch->kept[sequence.index] : nullptr;
  if (!to) return;
  const DecoderShape& shape = weights_.shape();
  const size_t n = sequence.total(), d = shape.head_size, width = shape.kv_width();
  to += layer * 2 * width * n;
  for (size_t head = 0; head < static_cast<size_t>(shape.kv_heads); ++head) {
    const float* keys = states_.keys.data() + sequence.keys + head * sequence.blocks() * kKeyBlock * d;
    for (size_t at = 0; at < n; at += kKeyBlock, keys += kKeyBlock * d)
      for (size_t i = 0; i < d; ++i)
        memcpy(to + (head * d + i) * n + at, keys + i * kKeyBlock, sizeof(float) * std::min(n - at, size_t{kKeyBlock}));
  }
  memcpy(to + width * n, states_.values.data() + sequence.values, sizeof(float) * width * n);
}

// Moves the states of pooled rows to where `pooled` says they are: never to the back.
void Decoder::compact(const Piece& piece) {
  for (const Segment& segment : piece.pooled.segments) {
    const Segment& whole = piece.all.segments[segment.sequence];
    const int from = whole.row + segment.first - whole.first;
    memmove(state(segment.row), state(from), sizeof(float) * segment.count * weights_.shape().hidden_stride());
  }
}

void Decoder::pool(const Piece& piece, int begin, int end) {
  const DecoderShape& shape = weights_.shape();
  for (int at = begin; at < end; ++at) {
    float* out = piece.batch->out + static_cast<size_t>(piece.sequences[at].index) * shape.hidden;
    std::fill(out, out + shape.hidden, 0.0f);
  }
  std::vector<float> totals(end - begin, 0.0f), normed(shape.hidden);
  for (const Segment& segment : piece.pooled.segments) {
    if (segment.sequence < begin || segment.sequence >= end) continue;
    const Sequence& sequence = piece.sequences[segment.sequence];
    const float* weights = piece.batch->pooling + piece.batch->offsets[sequence.index] + segment.first - sequence.before;
    for (int i = 0; i < segment.count; ++i) {
      kernels_.decoder->rms_norm(state(segment.row + i), weights_.last_norm(), shape.hidden, shape.eps, normed.data());
      kernels_.accumulate(normed.data(), weights[i], shape.hidden, piece.batch->out + static_cast<size_t>(sequence.index) * shape.hidden);
      totals[segment.sequence - begin] += weights[i];
    }
  }
  for (int at = begin; at < end; ++at) {
    float* out = piece.batch->out + static_cast<size_t>(piece.sequences[at].index) * shape.hidden;
    if (totals[at - begin] != 0)
      for (int i = 0; i < shape.hidden; ++i) out[i] /= totals[at - begin];
  }
}

}  // namespace embedserve
