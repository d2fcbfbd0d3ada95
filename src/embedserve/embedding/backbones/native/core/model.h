// The walk through the network: packed sequences in, pooled vectors out.
#pragma once
#include <atomic>
#include <mutex>
#include <vector>

#include "arena.h"
#include "kernels.h"
#include "threads.h"
#include "weights.h"

namespace embedserve {

// Sequences one after another without padding: sequence i is tokens offsets[i] .. offsets[i + 1].
struct Batch {
  const int32_t* ids;
  const float* pooling;    // a weight a token
  const int32_t* offsets;  // sequences + 1
  int sequences;
  float* out;  // sequences * hidden: the weighted mean of the last states (zero where all weights are)
};

class Model {
 public:
  Model(const Shape& shape, const Kernels& kernels, int threads);
  Weights& weights() { return weights_; }
  Team& team() { return team_; }
  const Kernels& kernels() const { return kernels_; }
  void pack();
  void encode(const Batch& batch);
  size_t bytes() const { return weights_.bytes() + working_.load(std::memory_order_relaxed); }

 private:
  // States of the tokens under way; shared by the threads that work on them.
  struct States {
    Array<float> x, v, context, q_scale, k_scale;
    Array<uint8_t> q;
    Array<int8_t> k;
    HeadRows rows() { return {q.data(), k.data(), q_scale.data(), k_scale.data(), v.data()}; }
    size_t bytes() const {
      return x.bytes() + v.bytes() + context.bytes() + q_scale.bytes() + k_scale.bytes() + q.bytes() + k.bytes();
    }
  };
  // What a thread keeps for itself.
  struct Scratch {
    Array<float> mid;  // outputs of one layer for a block of rows
    Array<uint8_t> bytes_in;
    Array<RowScale> scales;
    Array<char> attention;
    size_t bytes() const { return mid.bytes() + bytes_in.bytes() + scales.bytes() + attention.bytes(); }
  };
  // Consecutive entries of `order`, run through the network together.
  struct Piece {
    const Batch* batch;
    std::vector<int> sequences;  // which of the batch
    std::vector<int> starts;     // their first rows in the states, and the number of rows
    int longest = 0;             // sequence
    int rows() const { return starts.back(); }
  };

  void check(const Batch& batch) const;
  void run(const Batch& batch);
  void count_working();
  Piece make_piece(const Batch& batch, const int* sequences, int count) const;
  void prepare(States& states, const Piece& piece) const;
  // Alone, or (on the calling thread, rank 0) with all threads together.
  void walk(const Piece& piece, States& states, int rank, bool together);
  void embed(const Piece& piece, States& states, int begin, int end) const;
  void begin_layer(const Layer& layer, States& states, Scratch& own, int begin, int end) const;
  void finish_layer(const Layer& layer, States& states, Scratch& own, int begin, int end) const;
  // Items are heads times sequences, all sequences of the first head first.
  void attend(const Piece& piece, States& states, Scratch& own, int item) const;
  void pool(const Piece& piece, const float* x) const;
  Activations quantise(const float* x, int stride, int rows, const Linear& linear, Scratch& own) const;
  void multiply(const Activations& in, const Linear& linear, Epilogue epilogue, const float* residual, float* out, int stride) const;
  void normalise(const float* x, const Norm& norm, int rows, float* out) const;

  Weights weights_;
  const Kernels& kernels_;
  Team team_;
  std::mutex mutex_;
  std::atomic<size_t> working_{0};  // bytes, as of the last batch
  std::vector<States> states_;
  std::vector<Scratch> scratch_;
};

}  // namespace embedserve
