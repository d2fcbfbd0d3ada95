// Sixteen lanes of AVX-512 for the generic kernels.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace embedserve {
namespace {

#define LANE_INLINE static inline __attribute__((always_inline))

constexpr int kLanes = 16;
using Vec = __m512;

LANE_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
LANE_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
LANE_INLINE Vec splat(float x) { return _mm512_set1_ps(x); }
LANE_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
LANE_INLINE Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
LANE_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
LANE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
LANE_INLINE Vec divide(Vec a, Vec b) { return _mm512_div_ps(a, b); }
LANE_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
LANE_INLINE Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
LANE_INLINE Vec abs(Vec a) { return _mm512_abs_ps(a); }
LANE_INLINE Vec clamp(Vec a, float limit) {  // to -limit..limit: the lesser magnitude with a's sign, in one instruction
  return _mm512_range_ps(a, splat(limit), 0b0010);
}
LANE_INLINE Vec power_bits(Vec a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23)); }
LANE_INLINE float sum(Vec a) { return _mm512_reduce_add_ps(a); }
LANE_INLINE float largest(Vec a) { return _mm512_reduce_max_ps(a); }
// Lanes from `count` on become `fill`.
LANE_INLINE Vec keep_first(Vec a, int count, float fill) {
  return _mm512_mask_mov_ps(splat(fill), count >= 16 ? __mmask16(0xffff) : __mmask16((1u << count) - 1), a);
}
LANE_INLINE void store_bytes(uint8_t* p, Vec v) {  // rounded; v from 0 to 255
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
// Four vectors as bytes in order, rounded and held between 0 and 255: half the shuffles of one by one.
using Bytes = __m512i;
LANE_INLINE Bytes to_bytes(Vec a, Vec b, Vec c, Vec d) {
  const __m512i ab = _mm512_packus_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
  const __m512i cd = _mm512_packus_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                                  _mm512_packus_epi16(ab, cd));
}
LANE_INLINE void store_bytes(uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
using ByteSum = __m512i;
LANE_INLINE ByteSum no_bytes() { return _mm512_setzero_si512(); }
LANE_INLINE void add_bytes(ByteSum& sum, Bytes v) { sum = _mm512_add_epi64(sum, _mm512_sad_epu8(v, _mm512_setzero_si512())); }
LANE_INLINE int32_t total(ByteSum sum) { return static_cast<int32_t>(_mm512_reduce_add_epi64(sum)); }
LANE_INLINE void store_ints(int32_t* p, Vec v) { _mm512_storeu_si512(p, _mm512_cvtps_epi32(v)); }
// Signed bytes of four vectors, lane by lane: a0 b0 c0 d0 a1 b1 ...
LANE_INLINE void interleave_bytes(int8_t* p, Vec a, Vec b, Vec c, Vec d) {
  const __m512i low = _mm512_set1_epi32(255);
  const __m512i ab = _mm512_or_si512(_mm512_and_si512(_mm512_cvtps_epi32(a), low),
                                     _mm512_slli_epi32(_mm512_and_si512(_mm512_cvtps_epi32(b), low), 8));
  const __m512i cd = _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(_mm512_cvtps_epi32(c), low), 16),
                                     _mm512_slli_epi32(_mm512_cvtps_epi32(d), 24));
  _mm512_storeu_si512(p, _mm512_or_si512(ab, cd));
}

// Integer sums of a GEMM tile: one accumulator holds 16 columns.
using Sums = __m512i;
using Four = __m512i;  // four activations, broadcast
constexpr int kTileRows = 6, kTileVectors = 4, kSumColumns = 16;
constexpr int kShift = 0;  // taken from every activation byte by dot()
LANE_INLINE Sums start_sums(const int32_t* offset) { return _mm512_load_si512(offset); }
LANE_INLINE Sums no_sums() { return _mm512_setzero_si512(); }
LANE_INLINE Four broadcast_four(const uint8_t* a) {
  int32_t four;
  memcpy(&four, a, 4);
  return _mm512_set1_epi32(four);
}
using Weights = __m512i;
LANE_INLINE Weights load_weights(const int8_t* w) { return _mm512_load_si512(w); }
// Written as assembly: GCC spills accumulators around the intrinsic, which halves the speed.
LANE_INLINE void dot(Sums& c, Four a, Weights w) { asm("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(a), "v"(w)); }
LANE_INLINE Vec total(const Sums* c) { return _mm512_cvtepi32_ps(*c); }

constexpr int kSumsPerVec = kLanes / kSumColumns;  // accumulators that make one Vec of columns

}  // namespace
}  // namespace embedserve
