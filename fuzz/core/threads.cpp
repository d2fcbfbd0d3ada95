// Many callers at once on the same models, figures read beside them, tasks that throw: for the thread sanitizer.
#include <atomic>
#include <stdexcept>
#include <thread>

#include "decoder.h"
#include "encoder.h"
#include "threads.h"

namespace {

using embedserve::Barrier;
using embedserve::Team;

void run_teams(Input& input) {
  const int size = input.number(1, 4);
  Team team(size);
  for (int rounds = input.number(1, 8); rounds; --rounds) {
    const int count = input.number(0, 50), chunk = input.number(1, 5), bad = input.chance(3) ? input.number(0, 60) : -1;
    std::vector<int> seen(count, 0);
    bool thrown = false;
    try {
      team.share(count, chunk, [&](int begin, int end, int) {
        for (int i = begin; i < end; ++i) {
          ++seen[i];
          if (i == bad) throw std::runtime_error("bad item");
        }
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    REQUIRE(thrown == (bad >= 0 && bad < count));
    for (int i = 0; i < count && !thrown; ++i) REQUIRE(seen[i] == 1);
  }
  for (int rounds = input.number(1, 4); rounds; --rounds) {  // with a barrier, and one who does not come to it
    const int meetings = input.number(1, 6), failing = input.chance(2) ? input.number(0, size - 1) : -1;
    const int last = input.number(0, meetings - 1);
    Barrier barrier(size);
    std::vector<int> written(size, -1);
    bool thrown = false;
    try {
      team.run([&](int rank) {
        try {
          for (int meeting = 0; meeting < meetings; ++meeting) {
            written[rank] = meeting;
            if (rank == failing && meeting == last) throw std::bad_alloc();
            if (size > 1) barrier.wait();
            for (int other : written) REQUIRE(other == meeting);
            if (size > 1) barrier.wait();
          }
        } catch (...) {
          barrier.abandon(std::current_exception());
          throw;
        }
      });
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    REQUIRE(thrown == (failing >= 0));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  run_teams(input);

  const Encoder network(embedserve::Shape{64, 2, 2, 96, 120, 40, 1e-12f}, false, 3);
  DecoderNetwork decoder_network{};
  decoder_network.shape = embedserve::DecoderShape{64, 2, 2, 1, 32, 288, 200, 40, 1e-6f, 1e6f};
  void* model = network.open("auto", input.number(1, 3));
  void* decoder = decoder_network.open("auto", input.number(1, 2), 5);
  REQUIRE(model && decoder);
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done.load()) {
      REQUIRE(embedserve_model_bytes(model) > 0 && embedserve_decoder_bytes(decoder) > 0);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> callers;
  for (int caller = input.number(2, 4); caller; --caller) {
    const uint32_t seed = input.byte();
    const int lengths[] = {input.number(1, 100), input.number(1, 30), input.number(1, 60)};
    callers.emplace_back([=] {
      Dice dice(seed);
      Windows windows;
      for (int length : lengths) windows.add(dice, length, 40);
      std::vector<float> out(3 * 64), again(3 * 64);
      const float* const none[3] = {};
      const int32_t zeros[3] = {};
      for (int times = 0; times < 3; ++times) {
        std::vector<float>& to = times ? again : out;
        REQUIRE(!embedserve_model_encode(model, windows.ids.data(), windows.pooling.data(), windows.offsets.data(), 3, to.data()));
        REQUIRE(!times || again == out);
      }
      for (int times = 0; times < 2; ++times) {
        std::vector<float>& to = times ? again : out;
        REQUIRE(!embedserve_decoder_encode(decoder, windows.ids.data(), windows.pooling.data(), windows.offsets.data(), 3, none, zeros,
                                           nullptr, to.data()));
        REQUIRE(!times || again == out);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  done.store(true);
  reader.join();
  embedserve_model_destroy(model);
  embedserve_decoder_destroy(decoder);
  return 0;
}
