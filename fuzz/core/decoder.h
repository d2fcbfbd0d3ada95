// A small Qwen3-shaped network of numbers from a seed.
#pragma once
#include <string>
#include <vector>

#include "input.h"

struct DecoderNetwork {
  embedserve::DecoderShape shape;
  int kind = 0;       // 0 fp32, 1 bf16, 2 fp16
  std::string broken;  // tensor that is left out, or (with `cut`) a row short
  bool cut = false;
  mutable std::vector<float> words;

  void* open(const char* isa, int threads, uint32_t seed) const {
    void* decoder = embedserve_decoder_create(&shape, isa, threads);
    if (!decoder) return nullptr;
    Dice dice(seed);
    const int h = shape.hidden, q = shape.q_width(), kv = shape.kv_width();
    std::vector<std::vector<float>> kept;
    bool good = true;
    const auto set = [&](const std::string& name, int rows, int columns) {
      if (name == broken && !cut) return;
      if (name == broken) columns -= columns > 1;
      const size_t count = static_cast<size_t>(rows) * columns;
      kept.push_back(values(dice, kind && name != "words" ? (count + 1) / 2 : count));  // halves: any bits
      if (kind && name != "words")
        for (float& pair : kept.back()) {
          const uint32_t bits = (0x3c00u + dice.below(256)) << 16 | (0x3c00u + dice.below(256));
          std::memcpy(&pair, &bits, 4);
        }
      if (name == "words") words = kept.back();
      const void* place = name == "words" ? words.data() : kept.back().data();
      good = good && !embedserve_decoder_set(decoder, name.c_str(), place, name == "words" ? 0 : kind, rows, columns);
    };
    for (int i = 0; i < shape.layers && good; ++i) {
      set("q", q, h), set("k", kv, h), set("v", kv, h), set("o", h, q);
      set("gate", shape.ffn, h), set("up", shape.ffn, h), set("down", h, shape.ffn);
      set("input_norm", 1, h), set("ffn_norm", 1, h), set("q_norm", 1, shape.head_size), set("k_norm", 1, shape.head_size);
      good = good && !embedserve_decoder_pack_layer(decoder);
      kept.clear();
    }
    set("words", shape.vocabulary, h), set("last_norm", 1, h);
    if (good && !embedserve_decoder_finish(decoder)) {
      REQUIRE(embedserve_decoder_pack_layer(decoder) && embedserve_decoder_finish(decoder));  // once is enough
      return decoder;
    }
    REQUIRE(*embedserve_error());
    embedserve_decoder_destroy(decoder);
    return nullptr;
  }
};
