// What a Qwen3 checkpoint says about the network, and the sizes that follow from it.
#pragma once
#include "shape.h"

namespace embedserve {

struct DecoderShape {
  int hidden, layers, heads, kv_heads, head_size, ffn, positions, vocabulary;
  float eps, rope_theta;
  int group() const { return heads / kv_heads; }  // query heads that share one head of keys and values
  int q_width() const { return heads * head_size; }
  int kv_width() const { return kv_heads * head_size; }
  int hidden_stride() const { return round_up(hidden, kPanel); }
  int q_stride() const { return round_up(q_width(), kPanel); }
  int kv_stride() const { return round_up(2 * kv_width(), kPanel); }
};

}  // namespace embedserve
