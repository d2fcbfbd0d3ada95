// The walk through a Qwen3 decoder: packed sequences in, pooled vectors out.
#pragma once
#include <atomic>
#include <mutex>
#include <vector>

#include "decoder_weights.h"
#include "kernels.h"

namespace embedserve {

// Sequences one after another without padding: sequence i is tokens offsets[i] .. offsets[i + 1]. Its first
// prefix_lengths[i] positions may have been computed before: their keys and values are read from prefixes[i].
//
// Keys and values of n positions are kept as, layer by layer, keys[kv head][d][n] and values[kv head][n][d].
struct DecoderBatch {
  const int32_t* ids;
  const float* pooling;  // a weight a token
  const int32_t* offsets;  // sequences + 1
  int sequences;
  const float* const* prefixes;
  const int32_t* prefix_lengths;
  float* const* kept;  // where to keep the keys and values of a sequence without prefix; null: nowhere
  float* out;  // sequences * hidden: the weighted mean of the last states (zero where all weights are)
};

class Decoder {
 public:
  Decoder(const DecoderShape& shape, const Kernels& kernels, int threads);
  DecoderWeights& weights() { return weights_; }
  Team& team() { return team_; }
  void encode(const DecoderBatch& batch);
  size_t bytes() const { return weights_.bytes() + working_.load(std::memory_order_relaxed); }

 private:
  struct Sequence {
    int index;         // in the batch
    int before, rows;  // positions kept from before, and to compute
    size_t keys, values;  // where its keys and values begin in the states
    int total() const { return before + rows; }
    int blocks() const { return (total() + kKeyBlock - 1) / kKeyBlock; }
  };
  // Rows of the states that are consecutive positions of one sequence.
  struct Segment {
    int sequence;  // in the piece
    int row, first, count;
  };
  struct Layout {
    std::vector<Segment> segments;
    int rows = 0;
    void add(int sequence, int first, int count);
  };
  // Consecutive sequences of a batch, run through the network together.
  struct Piece {
    const DecoderBatch* batch;
    std::vector<Sequence> sequences;
    Layout all, pooled;  // every row; those that the pooling looks at
    size_t keys = 0, values = 0;
  };
  struct States {
    Array<float> x, keys, values;  // of all rows; keys and values of one layer
    size_t bytes() const { return x.bytes() + keys.bytes() + values.bytes(); }
  };
  // Of the rows that a member, or all members together, work on.
  struct Scratch {
    Array<float> heads, mid;
    GroupedBytes in, gated;
    size_t bytes() const { return heads.bytes() + mid.bytes() + in.bytes() + gated.bytes(); }
  };
  // Some rows of a layout and who works on them: one member alone, or all of them with meetings.
  struct Block {
    const Layout& layout;
    int begin, end;
    const Member& member;
    Scratch& scratch;
    int rank;  // of the thread, for what is its own
    int rows() const { return end - begin; }
  };
  struct Schedule;

  void check(const DecoderBatch& batch) const;
  void count_working();
  Piece make_piece(const DecoderBatch& batch, int first, int last) const;
  void prepare(const Piece& piece);
  void walk(const Piece& piece, Schedule& schedule, int rank);
  void embed(const Piece& piece, int begin, int end);
  void quantise_normed(const float* gain, const Block& block);
  void multiply_shared(const GroupedBytes& in, const GroupedLinear& linear, bool add, float* out, int stride, const Block& block);
  void compute_keys(const Piece& piece, const DecoderLayer& layer, const Block& block);
  void compute_rest(const Piece& piece, const DecoderLayer& layer, const Block& block);
  void attend(const Piece& piece, const Block& block);
  void feed_forward(const DecoderLayer& layer, const Block& block);
  void store_key(const Sequence& sequence, int position, const float* row, const DecoderLayer& layer, float* turned);
  void load_prefix(const Piece& piece, const Sequence& sequence, int layer);
  void keep(const Piece& piece, const Sequence& sequence, int layer);
  void compact(const Piece& piece);
  void pool(const Piece& piece, int begin, int end);
  void grow_angles(int positions);
  float* state(int row) { return states_.x.data() + static_cast<size_t>(row) * weights_.shape().hidden_stride(); }
  const float* cosines(int position) const { return angles_.data() + static_cast<size_t>(position) * weights_.shape().head_size; }

  DecoderWeights weights_;
  const Kernels& kernels_;
  Team team_;
  std::mutex mutex_;
  std::atomic<size_t> working_{0};          // bytes, as of the last batch
  States states_;
  std::vector<Scratch> scratch_;           // a thread each; the first is shared where members work together
  std::vector<Array<float>> rows_;         // a thread each: one row
  std::vector<Array<char>> attention_;     // a thread each
  Array<float> angles_;                    // a position: cosines, then sines, of head_size / 2 angles
  int angles_count_ = 0;
};

}  // namespace embedserve
