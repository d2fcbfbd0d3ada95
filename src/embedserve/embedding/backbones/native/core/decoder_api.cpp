// The C ABI of decoders; see api.cpp for how failures come back.
#include <stdexcept>
#include <string>

#include "api.h"
#include "decoder.h"

using namespace embedserve;

EMBEDSERVE_API void* embedserve_decoder_create(const DecoderShape* shape, const char* isa, int threads) {
  Decoder* decoder = nullptr;
  guarded([&] {
    const Kernels* kernels = find_kernels(isa);
    if (!kernels) throw std::invalid_argument(std::string("this CPU has no ") + isa);
    check_sizes({shape->layers}, kMostLayers);
    check_sizes({shape->hidden, shape->ffn}, kMostWidth);
    check_sizes({shape->heads, shape->kv_heads, shape->head_size}, 1 << 12);
    check_sizes({shape->heads * shape->head_size, shape->kv_heads * shape->head_size}, kMostWidth);
    check_sizes({shape->positions, shape->vocabulary}, kMostRows);
    check_sizes({threads}, kMostThreads);
    if (shape->hidden % 32 || shape->ffn % 32 || shape->head_size % 32)
      throw std::invalid_argument("hidden, ffn and a head's size must be multiples of 32");
    if (shape->heads % shape->kv_heads)
      throw std::invalid_argument("query heads must be a multiple of the heads of keys");
    decoder = new Decoder(*shape, *kernels, threads);
  });
  return decoder;
}

// kind: 0 fp32, 1 bf16, 2 fp16. What the names are: decoder_weights.h.
EMBEDSERVE_API int embedserve_decoder_set(void* decoder, const char* name, const void* values, int kind, int rows, int columns) {
  return guarded([&] {
    Tensor tensor;
    tensor.rows = rows;
    tensor.columns = columns;
    if (kind == 0) tensor.fp32 = static_cast<const float*>(values);
    else if (kind == 1) tensor.bf16 = static_cast<const uint16_t*>(values);
    else if (kind == 2) tensor.fp16 = static_cast<const uint16_t*>(values);
    else throw std::invalid_argument(std::string(name) + ": unknown kind of values");
    static_cast<Decoder*>(decoder)->weights().set(name, tensor);
  });
}

EMBEDSERVE_API int embedserve_decoder_pack_layer(void* decoder) {
  return guarded([&] { static_cast<Decoder*>(decoder)->weights().pack_layer(static_cast<Decoder*>(decoder)->team()); });
}

EMBEDSERVE_API int embedserve_decoder_finish(void* decoder) {
  return guarded([&] { static_cast<Decoder*>(decoder)->weights().finish(); });
}

EMBEDSERVE_API int embedserve_decoder_encode(void* decoder, const int32_t* ids, const float* pooling, const int32_t* offsets,
                                             int sequences, const float* const* prefixes, const int32_t* prefix_lengths,
                                             float* const* kept, float* out) {
  return guarded([&] {
    static_cast<Decoder*>(decoder)->encode(DecoderBatch{ids, pooling, offsets, sequences, prefixes, prefix_lengths, kept, out});
  });
}

EMBEDSERVE_API size_t embedserve_decoder_bytes(const void* decoder) { return static_cast<const Decoder*>(decoder)->bytes(); }
EMBEDSERVE_API void embedserve_decoder_destroy(void* decoder) { delete static_cast<Decoder*>(decoder); }
