// A small BERT-shaped network of numbers from a seed, whole or with one of its tensors damaged.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "input.h"

struct Encoder {
  embedserve::Shape shape;
  struct Stored {
    int rows, columns;
    std::vector<float> fp32;
    std::vector<uint8_t> q4;
  };
  std::map<std::string, Stored> tensors;

  Encoder(const embedserve::Shape& shape, bool q4, uint32_t seed) : shape(shape) {
    Dice dice(seed);
    const int h = shape.hidden, f = shape.ffn;
    const auto add = [&](const std::string& name, int rows, int columns, bool blocks = false) {
      Stored& stored = tensors[name];
      stored.rows = rows;
      stored.columns = columns;
      if (!blocks || !q4) {
        stored.fp32 = values(dice, static_cast<size_t>(rows) * columns);
        return;
      }
      stored.q4.resize(static_cast<size_t>(rows) * columns / 32 * 18);
      for (size_t i = 0; i < stored.q4.size(); ++i)  // a scale of 2^-6 or so, then nibbles
        stored.q4[i] = i % 18 == 1 ? 0x24 : static_cast<uint8_t>(dice.next());
    };
    add("emb.word", shape.vocabulary, h, true);
    add("emb.pos", shape.positions, h);
    add("emb.type", 2, h);
    for (const char* part : {"emb.ln.w", "emb.ln.b"}) add(part, 1, h);
    for (int i = 0; i < shape.layers; ++i) {
      const std::string layer = "l" + std::to_string(i) + ".";
      for (const char* part : {"q", "k", "v", "ao"}) {
        add(layer + part + ".w", h, h, true);
        add(layer + part + ".b", 1, h);
      }
      add(layer + "fi.w", f, h, true);
      add(layer + "fi.b", 1, f);
      add(layer + "fo.w", h, f, true);
      add(layer + "fo.b", 1, h);
      for (const char* part : {"aln.w", "aln.b", "oln.w", "oln.b"}) add(layer + part, 1, h);
    }
  }

  // Null where the core refuses.
  void* open(const char* isa, int threads) const {
    void* model = embedserve_model_create(&shape, isa, threads);
    if (!model) return nullptr;
    bool good = true;
    for (const auto& [name, stored] : tensors)
      good = good && !(stored.q4.empty() ? embedserve_model_set_fp32(model, name.c_str(), stored.fp32.data(), stored.rows, stored.columns)
                                         : embedserve_model_set_q4(model, name.c_str(), stored.q4.data(), stored.rows, stored.columns));
    if (good && !embedserve_model_pack(model)) return model;
    std::vector<float> out(static_cast<size_t>(shape.hidden));  // a model without weights says so
    const int32_t id = 0, offsets[2] = {0, 1};
    const float weight = 1;
    REQUIRE(embedserve_model_encode(model, &id, &weight, offsets, 1, out.data()));
    REQUIRE(*embedserve_error());
    embedserve_model_destroy(model);
    return nullptr;
  }
};

// Windows of ids, one after another, and a weight for each.
struct Windows {
  std::vector<int32_t> ids, offsets{0};
  std::vector<float> pooling;
  void add(Dice& dice, int length, int vocabulary) {
    for (int i = 0; i < length; ++i) {
      ids.push_back(dice.below(vocabulary));
      pooling.push_back(static_cast<float>(dice.below(4)));
    }
    if (length) pooling.back() = 1;
    offsets.push_back(static_cast<int32_t>(ids.size()));
  }
  int count() const { return static_cast<int>(offsets.size()) - 1; }
};
