// Any shape and sequences, with and without a kept prefix: refused, or the same bits alone, in a batch and after a prefix.
#include "decoder.h"

#include "encoder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  DecoderNetwork network{};
  embedserve::DecoderShape& shape = network.shape;
  shape.head_size = 32 * input.number(1, 2);
  shape.kv_heads = input.number(1, 2);
  shape.heads = shape.kv_heads * input.number(1, 3);
  shape.hidden = 32 * input.number(1, 3);
  shape.ffn = 32 * input.number(1, 10);
  shape.layers = input.number(1, 2);
  shape.positions = 400;
  shape.vocabulary = input.number(1, 50);
  shape.eps = 1e-6f;
  shape.rope_theta = 1e6f;
  network.kind = input.byte() % 3;
  const bool damaged = input.chance(4);
  if (damaged) {
    const char* const names[] = {"q", "k", "v", "o", "gate", "up", "down", "input_norm", "ffn_norm", "q_norm", "k_norm", "words", "last_norm"};
    network.broken = names[input.byte() % 13];
    network.cut = input.chance(2);
    int* const sizes[] = {&shape.hidden, &shape.layers, &shape.heads, &shape.kv_heads, &shape.head_size, &shape.ffn};
    const int odd[] = {0, -1, 31, 1 << 30, 2147483647, -2147483647 - 1};
    if (input.chance(3)) *sizes[input.byte() % 6] = odd[input.byte() % 6];
  }
  const char* isa = input.isa();
  void* decoder = network.open(isa, input.number(1, 3), input.byte());
  if (!decoder) {
    REQUIRE(damaged);
    return 0;
  }
  REQUIRE(!damaged);

  Windows windows;
  Dice dice(input.byte());
  const int prefix = input.chance(2) ? input.number(1, 130) : 0;
  Windows before;
  before.add(dice, prefix, shape.vocabulary);
  for (int count = input.number(1, 5); count; --count)
    windows.add(dice, input.number(0, input.chance(4) ? 200 : 20), shape.vocabulary);
  const int count = windows.count();
  const size_t hidden = shape.hidden;
  std::vector<float> kept(2 * static_cast<size_t>(shape.layers) * shape.kv_width() * prefix), out(hidden * count), alone(hidden);
  const std::vector<const float*> none(count, nullptr), prefixes(count, kept.data());
  const std::vector<int32_t> zeros(count, 0), lengths(count, prefix);
  if (prefix) {
    float* place = kept.data();
    REQUIRE(!embedserve_decoder_encode(decoder, before.ids.data(), before.pooling.data(), before.offsets.data(), 1, none.data(),
                                       zeros.data(), &place, alone.data()));
  }
  REQUIRE(!embedserve_decoder_encode(decoder, windows.ids.data(), windows.pooling.data(), windows.offsets.data(), count,
                                     prefix ? prefixes.data() : none.data(), lengths.data(), nullptr, out.data()));
  for (int i = 0; i < count; ++i) {  // alone, prefix and rest computed at once
    Windows whole = before;
    std::fill(whole.pooling.begin(), whole.pooling.end(), 0.0f);
    whole.ids.insert(whole.ids.end(), windows.ids.begin() + windows.offsets[i], windows.ids.begin() + windows.offsets[i + 1]);
    whole.pooling.insert(whole.pooling.end(), windows.pooling.begin() + windows.offsets[i], windows.pooling.begin() + windows.offsets[i + 1]);
    const int32_t offsets[2] = {0, static_cast<int32_t>(whole.ids.size())};
    REQUIRE(!embedserve_decoder_encode(decoder, whole.ids.data(), whole.pooling.data(), offsets, 1, none.data(), zeros.data(), nullptr,
                                       alone.data()));
    REQUIRE(!std::memcmp(alone.data(), out.data() + i * hidden, hidden * sizeof(float)));
  }
  windows.add(dice, 1, shape.vocabulary);
  std::vector<float> more(hidden * (count + 1));
  std::vector<int32_t> long_before(count + 1, 0);
  std::vector<const float*> nowhere(count + 1, nullptr);
  if (input.chance(2)) windows.ids.back() = shape.vocabulary;
  else long_before.back() = input.chance(2) ? shape.positions : -1;
  REQUIRE(embedserve_decoder_encode(decoder, windows.ids.data(), windows.pooling.data(), windows.offsets.data(), count + 1,
                                    nowhere.data(), long_before.data(), nullptr, more.data()));
  embedserve_decoder_destroy(decoder);
  return 0;
}
