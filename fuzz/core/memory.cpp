// Memory runs out at the n-th request for some, on any thread: an error, and the next call gives the bits of before.
// Linked with --wrap=posix_memalign: the core calls the one below.
#include <atomic>
#include <cerrno>
#include <new>

#include "decoder.h"
#include "encoder.h"

namespace {
std::atomic<long> countdown{-1};  // requests that are still granted; below zero: all
bool granted() { return countdown.load() < 0 || countdown.fetch_sub(1) != 0; }
}  // namespace

extern "C" int __real_posix_memalign(void** memory, size_t alignment, size_t size);
extern "C" int __wrap_posix_memalign(void** memory, size_t alignment, size_t size) {
  return granted() ? __real_posix_memalign(memory, alignment, size) : ENOMEM;
}

void* operator new(size_t size) {
  if (!granted()) throw std::bad_alloc();
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return granted() ? std::malloc(size ? size : 1) : nullptr; }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

template <class Call>
int scarcely(long grants, Call&& call) {
  countdown.store(grants);
  const int status = call();
  countdown.store(-1);
  return status;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const int threads = input.number(1, 2);
  const char* isa = input.isa();
  Dice dice(input.byte());
  Windows windows;
  for (int count = input.number(1, 5); count; --count) windows.add(dice, input.number(1, 60), 40);
  const std::vector<float> nothing;

  const Encoder network(embedserve::Shape{64, 2, 2, 96, 100, 40, 1e-12f}, false, 3);
  std::vector<float> expected(windows.count() * 64), out(expected.size());
  const auto encode = [&](void* model, float* to) {
    return embedserve_model_encode(model, windows.ids.data(), windows.pooling.data(), windows.offsets.data(), windows.count(), to);
  };
  void* model = network.open(isa, threads);
  REQUIRE(model && !encode(model, expected.data()));
  embedserve_model_destroy(model);
  model = network.open(isa, threads);
  for (int tries = input.number(1, 6); tries; --tries) {
    const int status = scarcely(input.number(0, 60), [&] { return encode(model, out.data()); });
    REQUIRE(status == 0 || (status == 2 && std::strstr(embedserve_error(), "memory")));
  }
  REQUIRE(!encode(model, out.data()) && out == expected);
  embedserve_model_destroy(model);

  DecoderNetwork decoder_network{};
  decoder_network.shape = embedserve::DecoderShape{64, 2, 2, 1, 32, 288, 200, 40, 1e-6f, 1e6f};
  const std::vector<const float*> none(windows.count(), nullptr);
  const std::vector<int32_t> zeros(windows.count(), 0);
  const auto decode = [&](void* decoder, float* to) {
    return embedserve_decoder_encode(decoder, windows.ids.data(), windows.pooling.data(), windows.offsets.data(), windows.count(),
                                     none.data(), zeros.data(), nullptr, to);
  };
  void* decoder = decoder_network.open(isa, threads, 5);
  REQUIRE(decoder && !decode(decoder, expected.data()));
  embedserve_decoder_destroy(decoder);
  decoder = decoder_network.open(isa, threads, 5);
  for (int tries = input.number(1, 6); tries; --tries) {
    const int status = scarcely(input.number(0, 60), [&] { return decode(decoder, out.data()); });
    REQUIRE(status == 0 || (status == 2 && std::strstr(embedserve_error(), "memory")));
  }
  REQUIRE(!decode(decoder, out.data()) && out == expected);
  embedserve_decoder_destroy(decoder);

  void* created = nullptr;  // creation as well
  scarcely(input.number(0, 30), [&] {
    created = embedserve_model_create(&network.shape, isa, threads);
    return 0;
  });
  if (created) {
    const auto& word = network.tensors.at("emb.word");
    scarcely(input.number(0, 3), [&] { return embedserve_model_set_fp32(created, "emb.word", word.fp32.data(), word.rows, word.columns); });
    scarcely(input.number(0, 30), [&] { return embedserve_model_pack(created); });
    embedserve_model_destroy(created);
  }
  return 0;
}
