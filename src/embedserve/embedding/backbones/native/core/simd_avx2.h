// Eight lanes of AVX2 + FMA for the generic kernels.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace embedserve {
namespace {

#define LANE_INLINE static inline __attribute__((always_inline))

constexpr int kLanes = 8;
using Vec = __m256;

LANE_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
LANE_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
LANE_INLINE Vec splat(float x) { return _mm256_set1_ps(x); }
LANE_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
LANE_INLINE Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
LANE_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
LANE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
LANE_INLINE Vec divide(Vec a, Vec b) { return _mm256_div_ps(a, b); }
LANE_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
LANE_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
LANE_INLINE Vec abs(Vec a) { return _mm256_andnot_ps(splat(-0.0f), a); }
LANE_INLINE Vec clamp(Vec a, float limit) { return min(max(a, splat(-limit)), splat(limit)); }
LANE_INLINE Vec power_bits(Vec a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23)); }
LANE_INLINE float sum(Vec a) {
  __m128 h = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  h = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}
LANE_INLINE float largest(Vec a) {
  __m128 h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  h = _mm_max_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}
// Lanes from `count` on become `fill`.
LANE_INLINE Vec keep_first(Vec a, int count, float fill) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_blendv_ps(splat(fill), a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane)));
}
LANE_INLINE void store_bytes(uint8_t* p, Vec v) {  // rounded; v from 0 to 255
  const __m256i i = _mm256_cvtps_epi32(v);
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
// Four vectors as bytes in order, rounded and held between 0 and 255.
struct Bytes {
  __m256i all;
};
LANE_INLINE Bytes to_bytes(Vec a, Vec b, Vec c, Vec d) {
  const __m256i ab = _mm256_packus_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
  const __m256i cd = _mm256_packus_epi32(_mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d));
  return {_mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))};
}
LANE_INLINE void store_bytes(uint8_t* p, Bytes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.all); }
using ByteSum = __m256i;
LANE_INLINE ByteSum no_bytes() { return _mm256_setzero_si256(); }
LANE_INLINE void add_bytes(ByteSum& sum, Bytes v) {
  sum = _mm256_add_epi64(sum, _mm256_sad_epu8(v.all, _mm256_setzero_si256()));
}
LANE_INLINE int32_t total(ByteSum sum) {
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  return _mm_cvtsi128_si32(half) + _mm_extract_epi32(half, 2);
}

LANE_INLINE void store_ints(int32_t* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvtps_epi32(v)); }
// Signed bytes of four vectors, lane by lane: a0 b0 c0 d0 a1 b1 ...
LANE_INLINE void interleave_bytes(int8_t* p, Vec a, Vec b, Vec c, Vec d) {
  const __m256i low = _mm256_set1_epi32(255);
  const __m256i ab = _mm256_or_si256(_mm256_and_si256(_mm256_cvtps_epi32(a), low),
                                     _mm256_slli_epi32(_mm256_and_si256(_mm256_cvtps_epi32(b), low), 8));
  const __m256i cd = _mm256_or_si256(_mm256_slli_epi32(_mm256_and_si256(_mm256_cvtps_epi32(c), low), 16),
                                     _mm256_slli_epi32(_mm256_cvtps_epi32(d), 24));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_or_si256(ab, cd));
}

using Sums = __m256i;
constexpr int kShift = 0;  // taken from every activation byte by dot()
LANE_INLINE Sums no_sums() { return _mm256_setzero_si256(); }
LANE_INLINE int32_t four_bytes(const uint8_t* a) { int32_t four; memcpy(&four, a, 4); return four; }
constexpr int kTileRows = 6, kTileVectors = 2;

#if defined(EMBEDSERVE_AVXVNNI)
// One accumulator holds 8 columns.
constexpr int kSumColumns = 8;
using Four = __m256i;
using Weights = __m256i;
LANE_INLINE Four broadcast_four(const uint8_t* a) { return _mm256_set1_epi32(four_bytes(a)); }
LANE_INLINE Weights load_weights(const int8_t* w) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(w)); }
LANE_INLINE void dot(Sums& c, Four a, Weights w) { c = _mm256_dpbusd_avx_epi32(c, a, w); }
LANE_INLINE Sums start_sums(const int32_t* offset) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offset)); }
LANE_INLINE Vec total(const Sums* c) { return _mm256_cvtepi32_ps(*c); }
#else
// Without VNNI the bytes are widened to 16 bits: exact, where vpmaddubsw would saturate. One accumulator holds
// 4 columns as two partial sums each.
constexpr int kSumColumns = 4;
using Four = __m256i;
using Weights = __m256i;
LANE_INLINE Four broadcast_four(const uint8_t* a) { return _mm256_cvtepu8_epi16(_mm_set1_epi32(four_bytes(a))); }
LANE_INLINE Weights load_weights(const int8_t* w) {
  return _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(w)));
}
LANE_INLINE void dot(Sums& c, Four a, Weights w) { c = _mm256_add_epi32(c, _mm256_madd_epi16(a, w)); }
LANE_INLINE Sums start_sums(const int32_t* offset) {
  return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(offset)));
}
LANE_INLINE Vec total(const Sums* c) {
  // hadd works inside 128-bit halves: columns come out 0 1 4 5 2 3 6 7.
  return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_hadd_epi32(c[0], c[1]), _MM_SHUFFLE(3, 1, 2, 0)));
}
#endif

constexpr int kSumsPerVec = kLanes / kSumColumns;  // accumulators that make one Vec of columns

}  // namespace
}  // namespace embedserve
