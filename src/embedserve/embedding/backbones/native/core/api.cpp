// The C ABI that Python loads. Functions that can fail return null or a Status that is not kDone and leave a message for
// embedserve_error(), kept per thread. No exception leaves them.
#include <stdexcept>
#include <string>

#include "api.h"
#include "model.h"
#include "unigram.h"

using namespace embedserve;

thread_local char embedserve::error[512] = "";

EMBEDSERVE_API const char* embedserve_error() { return error; }
EMBEDSERVE_API int embedserve_abi() { return 1; }

// The kernels chosen for `isa` ("auto" for the best), or null where this CPU cannot run them.
EMBEDSERVE_API const char* embedserve_isa(const char* isa) {
  const Kernels* kernels = find_kernels(isa);
  return kernels ? kernels->name : nullptr;
}

EMBEDSERVE_API void* embedserve_model_create(const Shape* shape, const char* isa, int threads) {
  Model* model = nullptr;
  guarded([&] {
    const Kernels* kernels = find_kernels(isa);
    if (!kernels) throw std::invalid_argument(std::string("this CPU has no ") + isa);
    check_sizes({shape->layers}, kMostLayers);
    check_sizes({shape->hidden, shape->heads, shape->ffn}, kMostWidth);
    check_sizes({shape->positions, shape->vocabulary}, kMostRows);
    check_sizes({threads}, kMostThreads);
    if (shape->hidden % 32 || shape->ffn % 32 || shape->hidden % shape->heads || shape->head_size() % 16)
      throw std::invalid_argument("hidden and ffn must be multiples of 32 and a head's size a multiple of 16");
    model = new Model(*shape, *kernels, threads);
  });
  return model;
}

EMBEDSERVE_API int embedserve_model_set_fp32(void* model, const char* name, const float* values, int rows, int columns) {
  return guarded([&] { static_cast<Model*>(model)->weights().set(name, Tensor{values, nullptr, rows, columns}); });
}

EMBEDSERVE_API int embedserve_model_set_q4(void* model, const char* name, const uint8_t* blocks, int rows, int columns) {
  return guarded([&] { static_cast<Model*>(model)->weights().set(name, Tensor{nullptr, blocks, rows, columns}); });
}

EMBEDSERVE_API int embedserve_model_pack(void* model) {
  return guarded([&] { static_cast<Model*>(model)->pack(); });
}

EMBEDSERVE_API int embedserve_model_encode(void* model, const int32_t* ids, const float* pooling, const int32_t* offsets,
                                           int sequences, float* out) {
  return guarded([&] { static_cast<Model*>(model)->encode(Batch{ids, pooling, offsets, sequences, out}); });
}

EMBEDSERVE_API size_t embedserve_model_bytes(const void* model) { return static_cast<const Model*>(model)->bytes(); }
EMBEDSERVE_API void embedserve_model_destroy(void* model) { delete static_cast<Model*>(model); }

EMBEDSERVE_API void* embedserve_unigram_create(const char* blob, const uint32_t* offsets, const float* scores, int pieces,
                                               int unknown_id, double unknown_score) {
  Unigram* unigram = nullptr;
  guarded([&] { unigram = new Unigram(blob, offsets, scores, pieces, unknown_id, unknown_score); });
  return unigram;
}

// Ids of text i are ids[counts so far ...]; `ids` holds at least bytes + texts values.
EMBEDSERVE_API int embedserve_unigram_encode(const void* unigram, const char* text, const size_t* offsets, int texts,
                                             int32_t* ids, int32_t* counts) {
  return guarded([&] {
    for (int i = 0; i < texts; ++i) {
      counts[i] = static_cast<int32_t>(
          static_cast<const Unigram*>(unigram)->encode(text + offsets[i], offsets[i + 1] - offsets[i], ids));
      ids += counts[i];
    }
  });
}

EMBEDSERVE_API void embedserve_unigram_destroy(void* unigram) { delete static_cast<Unigram*>(unigram); }
