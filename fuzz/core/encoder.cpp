// Any shape, any damage to the weights, any windows: refused, or the same bits for a window alone and in its batch.
#include "encoder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  embedserve::Shape shape{};
  const int head_sizes[] = {16, 32, 48, 64};
  const int head = head_sizes[input.byte() % 4];
  shape.heads = 2 * input.number(1, 2);
  shape.hidden = head * shape.heads;
  shape.layers = input.number(1, 2);
  shape.ffn = 32 * input.number(1, 5);
  shape.positions = input.number(1, 130);
  shape.vocabulary = input.number(1, 60);
  shape.eps = 1e-12f;
  const bool q4 = input.chance(2), damaged = input.chance(3);
  Encoder network(shape, q4, input.byte());
  if (damaged) {
    auto victim = network.tensors.begin();
    std::advance(victim, input.number(0, static_cast<int>(network.tensors.size()) - 1));
    auto& stored = victim->second;
    switch (input.byte() % 5) {
      case 0: network.tensors.erase(victim); break;
      case 1:  // a tensor of another size, and memory of just that size
        stored.rows = input.number(1, 70);
        stored.columns = 32 * input.number(1, 3);
        if (stored.q4.empty()) stored.fp32.resize(static_cast<size_t>(stored.rows) * stored.columns);
        else stored.q4.resize(static_cast<size_t>(stored.rows) * stored.columns / 32 * 18);
        break;
      case 2: stored.rows = -input.number(0, 9); break;
      case 3:  // numbers of any kind
        for (float& value : stored.fp32) value = input.left() ? input.value() : value;
        for (uint8_t& byte : stored.q4) byte = input.left() ? input.byte() : byte;
        break;
      case 4: {
        int* const sizes[] = {&network.shape.hidden, &network.shape.layers, &network.shape.heads, &network.shape.ffn,
                              &network.shape.positions, &network.shape.vocabulary};
        const int odd[] = {0, -1, 1, 31, 1 << 30, -2147483647 - 1, 4096, 2147483647};
        *sizes[input.byte() % 6] = odd[input.byte() % 8];
      }
    }
  }
  const char* isa = input.isa();
  const int threads = input.number(1, 3);
  void* model = network.open(isa, threads);
  if (!model) {
    REQUIRE(damaged);
    return 0;
  }

  Windows windows;
  Dice dice(input.byte());
  for (int count = input.number(1, 6); count; --count)
    windows.add(dice, input.number(1, network.shape.positions), network.shape.vocabulary);
  const size_t hidden = network.shape.hidden;
  std::vector<float> together(windows.count() * hidden), alone(hidden);
  REQUIRE(!embedserve_model_encode(model, windows.ids.data(), windows.pooling.data(), windows.offsets.data(), windows.count(),
                                   together.data()));
  for (int i = 0; i < windows.count(); ++i) {
    const int32_t offsets[2] = {0, windows.offsets[i + 1] - windows.offsets[i]};
    REQUIRE(!embedserve_model_encode(model, windows.ids.data() + windows.offsets[i], windows.pooling.data() + windows.offsets[i],
                                     offsets, 1, alone.data()));
    REQUIRE(!std::memcmp(alone.data(), together.data() + i * hidden, hidden * sizeof(float)));
  }
  // What Python refuses before: here it may cost an error, never memory.
  if (input.chance(2)) windows.ids[input.number(0, static_cast<int>(windows.ids.size()) - 1)] = input.chance(2) ? -1 : network.shape.vocabulary;
  else windows.offsets.back() += network.shape.positions;
  REQUIRE(embedserve_model_encode(model, windows.ids.data(), windows.pooling.data(), windows.offsets.data(), windows.count(),
                                  together.data()));
  embedserve_model_destroy(model);
  return 0;
}
