// Where the time goes: a model whose kernels are each timed by the processor's own clock. The product's kernels
// know nothing of it; benchmarks/engine.py --profile opens its model here. One thread only.
#include <chrono>
#include <cstring>

#include "api.h"
#include "model.h"

using namespace embedserve;

namespace {

enum Stage { kQkv, kProject, kExpand, kContract, kQuantise, kQuantiseMid, kNorm, kEmbed, kSplit, kAttention, kPool, kStages };
const char* const kNames[kStages] = {"linear q, k, v",    "linear output", "linear in + GELU", "linear out",
                                     "quantise",          "quantise FFN",  "layer norm",       "embed",
                                     "split heads",       "attention",     "pool"};
struct {
  uint64_t ticks[kStages], calls[kStages];
} spent;
const Kernels* timed = nullptr;

uint64_t now() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  uint64_t ticks;
  asm volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

// Adds its own lifetime to a stage.
struct Stopwatch {
  const Stage stage;
  const uint64_t begin = now();
  ~Stopwatch() {
    spent.ticks[stage] += now() - begin;
    ++spent.calls[stage];
  }
};

void gemm(const Activations& a, const Linear& w, Epilogue epilogue, const float* residual, float* out, int stride,
          int panel_begin, int panel_end) {
  const Stopwatch watch{epilogue == Epilogue::kGelu ? kExpand : epilogue == Epilogue::kStore ? kQkv : w.k > w.n ? kContract : kProject};
  timed->gemm(a, w, epilogue, residual, out, stride, panel_begin, panel_end);
}

int narrowest = 1 << 30;  // of the rows quantised so far: the hidden size; the FFN's are wider
RowScale quantise(const float* x, int k, uint8_t* q) {
  narrowest = k < narrowest ? k : narrowest;
  const Stopwatch watch{k > narrowest ? kQuantiseMid : kQuantise};
  return timed->quantise(x, k, q);
}

void layer_norm(const float* x, const float* gain, const float* bias, int n, float eps, float* out) {
  const Stopwatch watch{kNorm};
  timed->layer_norm(x, gain, bias, n, eps, out);
}

void embed(const uint8_t* blocks, const float* word, const float* position, const float* type, int n, float* out) {
  const Stopwatch watch{kEmbed};
  timed->embed(blocks, word, position, type, n, out);
}

void split_heads(const float* qkv, const Shape& shape, const HeadRows& to) {
  const Stopwatch watch{kSplit};
  timed->split_heads(qkv, shape, to);
}

void attention(const AttentionTask& task, const Shape& shape, char* scratch) {
  const Stopwatch watch{kAttention};
  timed->attention(task, shape, scratch);
}

void accumulate(const float* x, float weight, int n, float* total) {
  const Stopwatch watch{kPool};
  timed->accumulate(x, weight, n, total);
}

}  // namespace

// As embedserve_model_create() for a shape it has accepted; null where this CPU lacks `isa`.
EMBEDSERVE_API void* embedserve_profile_model_create(const Shape* shape, const char* isa, int) {
  timed = find_kernels(isa);
  if (!timed) return nullptr;
  static Kernels wrapped;
  wrapped = {timed->name, gemm, quantise, layer_norm, embed, split_heads, attention, timed->attention_bytes, accumulate, nullptr};
  Model* model = nullptr;
  guarded([&] { model = new Model(*shape, wrapped, 1); });
  return model;
}

EMBEDSERVE_API uint64_t embedserve_profile_clock() { return now(); }

// What the stages took since the last call; returns how many there are.
EMBEDSERVE_API int embedserve_profile_read(const char** names, uint64_t* ticks, uint64_t* calls) {
  memcpy(names, kNames, sizeof kNames);
  memcpy(ticks, spent.ticks, sizeof spent.ticks);
  memcpy(calls, spent.calls, sizeof spent.calls);
  memset(&spent, 0, sizeof spent);
  return kStages;
}
