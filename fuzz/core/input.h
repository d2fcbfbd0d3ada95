// A fuzzer's bytes as sizes, numbers and choices, and what every target needs: the C ABI, and a verdict that ends the run.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "decoder_shape.h"
#include "shape.h"

extern "C" {
const char* embedserve_error();
const char* embedserve_isa(const char* isa);
void* embedserve_model_create(const embedserve::Shape* shape, const char* isa, int threads);
int embedserve_model_set_fp32(void* model, const char* name, const float* values, int rows, int columns);
int embedserve_model_set_q4(void* model, const char* name, const uint8_t* blocks, int rows, int columns);
int embedserve_model_pack(void* model);
int embedserve_model_encode(void* model, const int32_t* ids, const float* pooling, const int32_t* offsets, int sequences, float* out);
size_t embedserve_model_bytes(const void* model);
void embedserve_model_destroy(void* model);
void* embedserve_decoder_create(const embedserve::DecoderShape* shape, const char* isa, int threads);
int embedserve_decoder_set(void* decoder, const char* name, const void* values, int kind, int rows, int columns);
int embedserve_decoder_pack_layer(void* decoder);
int embedserve_decoder_finish(void* decoder);
int embedserve_decoder_encode(void* decoder, const int32_t* ids, const float* pooling, const int32_t* offsets, int sequences,
                              const float* const* prefixes, const int32_t* prefix_lengths, float* const* kept, float* out);
size_t embedserve_decoder_bytes(const void* decoder);
void embedserve_decoder_destroy(void* decoder);
void* embedserve_unigram_create(const char* blob, const uint32_t* offsets, const float* scores, int pieces, int unknown_id,
                                double unknown_score);
int embedserve_unigram_encode(const void* unigram, const char* text, const size_t* offsets, int texts, int32_t* ids, int32_t* counts);
void embedserve_unigram_destroy(void* unigram);
}

#define REQUIRE(condition)                                                          \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);  \
      std::abort();                                                                 \
    }                                                                               \
  } while (0)

class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), left_(size) {}
  size_t left() const { return left_; }
  uint8_t byte() {
    if (!left_) return 0;
    --left_;
    return *at_++;
  }
  // From least to most.
  int number(int least, int most) {
    const uint32_t bits = byte() | static_cast<uint32_t>(byte()) << 8;
    return least + static_cast<int>(bits % static_cast<uint32_t>(most - least + 1));
  }
  bool chance(int in) { return byte() % in == 0; }
  // Mostly tame; now and then what a damaged file holds.
  float value() {
    const uint8_t bits = byte();
    if (bits == 255) {
      uint32_t any = 0;
      for (int i = 0; i < 4; ++i) any = any << 8 | byte();
      float odd;
      std::memcpy(&odd, &any, 4);
      return odd;
    }
    return (static_cast<float>(bits) - 127.0f) * (1.0f / 256.0f);
  }
  std::string text(size_t most) {
    std::string bytes;
    for (size_t count = number(0, static_cast<int>(most)); count && left_; --count) bytes.push_back(static_cast<char>(byte()));
    return bytes;
  }
  const char* isa() {
    static const char* const sets[] = {"auto", "scalar", "avx2", "avxvnni", "avx512vnni", "neon"};
    const char* chosen = sets[byte() % 6];
    return embedserve_isa(chosen) ? chosen : "scalar";
  }

 private:
  const uint8_t* at_;
  size_t left_;
};

// Numbers that go on when the fuzzer's bytes have run out.
class Dice {
 public:
  explicit Dice(uint32_t seed) : state_(seed * 2654435761u + 1) {}
  uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_;
  }
  int below(int most) { return static_cast<int>(next() % static_cast<uint32_t>(most)); }
  float value() { return static_cast<float>(below(2001) - 1000) * 3e-4f; }

 private:
  uint32_t state_;
};

inline std::vector<float> values(Dice& dice, size_t count) {
  std::vector<float> all(count);
  for (float& value : all) value = dice.value();
  return all;
}
