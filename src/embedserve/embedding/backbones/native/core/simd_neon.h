// Four lanes of AArch64 NEON for the generic kernels.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace embedserve {
namespace {

#define LANE_INLINE static inline __attribute__((always_inline))

constexpr int kLanes = 4;
using Vec = float32x4_t;

LANE_INLINE Vec load(const float* p) { return vld1q_f32(p); }
LANE_INLINE void store(float* p, Vec v) { vst1q_f32(p, v); }
LANE_INLINE Vec splat(float x) { return vdupq_n_f32(x); }
LANE_INLINE Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
LANE_INLINE Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
LANE_INLINE Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
LANE_INLINE Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
LANE_INLINE Vec divide(Vec a, Vec b) { return vdivq_f32(a, b); }
LANE_INLINE Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
LANE_INLINE Vec min(Vec a, Vec b) { return vminq_f32(a, b); }
LANE_INLINE Vec abs(Vec a) { return vabsq_f32(a); }
LANE_INLINE Vec clamp(Vec a, float limit) { return min(max(a, splat(-limit)), splat(limit)); }
LANE_INLINE Vec power_bits(Vec a) { return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(a), 23)); }
LANE_INLINE float sum(Vec a) { return vaddvq_f32(a); }
LANE_INLINE float largest(Vec a) { return vmaxvq_f32(a); }
// Lanes from `count` on become `fill`.
LANE_INLINE Vec keep_first(Vec a, int count, float fill) {
  const int32x4_t lane = {0, 1, 2, 3};
  return vbslq_f32(vcltq_s32(lane, vdupq_n_s32(count)), a, splat(fill));
}
LANE_INLINE void store_bytes(uint8_t* p, Vec v) {  // rounded; v from 0 to 255
  const uint16x4_t words = vqmovun_s32(vcvtnq_s32_f32(v));
  const uint8x8_t bytes = vqmovn_u16(vcombine_u16(words, words));
  const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
  memcpy(p, &four, 4);
}
// Four vectors as bytes in order, rounded and held between 0 and 255.
struct Bytes {
  uint8x16_t all;
};
LANE_INLINE Bytes to_bytes(Vec a, Vec b, Vec c, Vec d) {
  const uint16x8_t ab = vcombine_u16(vqmovun_s32(vcvtnq_s32_f32(a)), vqmovun_s32(vcvtnq_s32_f32(b)));
  const uint16x8_t cd = vcombine_u16(vqmovun_s32(vcvtnq_s32_f32(c)), vqmovun_s32(vcvtnq_s32_f32(d)));
  return {vcombine_u8(vqmovn_u16(ab), vqmovn_u16(cd))};
}
LANE_INLINE void store_bytes(uint8_t* p, Bytes v) { vst1q_u8(p, v.all); }
struct ByteSum {
  uint32_t all;
};
LANE_INLINE ByteSum no_bytes() { return {0}; }
LANE_INLINE void add_bytes(ByteSum& sum, Bytes v) { sum.all += vaddlvq_u8(v.all); }
LANE_INLINE int32_t total(ByteSum sum) { return static_cast<int32_t>(sum.all); }

LANE_INLINE void store_ints(int32_t* p, Vec v) { vst1q_s32(p, vcvtnq_s32_f32(v)); }
// Signed bytes of four vectors, lane by lane: a0 b0 c0 d0 a1 b1 ...
LANE_INLINE void interleave_bytes(int8_t* p, Vec a, Vec b, Vec c, Vec d) {
  const int32x4_t low = vdupq_n_s32(255);
  const int32x4_t ab = vorrq_s32(vandq_s32(vcvtnq_s32_f32(a), low), vshlq_n_s32(vandq_s32(vcvtnq_s32_f32(b), low), 8));
  const int32x4_t cd = vorrq_s32(vshlq_n_s32(vandq_s32(vcvtnq_s32_f32(c), low), 16), vshlq_n_s32(vcvtnq_s32_f32(d), 24));
  vst1q_s8(p, vreinterpretq_s8_s32(vorrq_s32(ab, cd)));
}

// One accumulator holds 4 columns. sdot takes signed bytes, so activations lose 128 on the way in, which zero
// points and offsets allow for (kShift).
constexpr int kShift = 128;
using Sums = int32x4_t;
using Four = int8x16_t;
using Weights = int8x16_t;
constexpr int kTileRows = 4, kTileVectors = 4, kSumColumns = 4;
LANE_INLINE Sums no_sums() { return vdupq_n_s32(0); }
LANE_INLINE Weights load_weights(const int8_t* w) { return vld1q_s8(w); }
LANE_INLINE Four broadcast_four(const uint8_t* a) {
  uint32_t four;
  memcpy(&four, a, 4);
  return vreinterpretq_s8_u32(veorq_u32(vdupq_n_u32(four), vdupq_n_u32(0x80808080u)));
}
LANE_INLINE void dot(Sums& c, Four a, Weights w) { c = vdotq_s32(c, a, w); }
LANE_INLINE Sums start_sums(const int32_t* offset) { return vld1q_s32(offset); }
LANE_INLINE Vec total(const Sums* c) { return vcvtq_f32_s32(*c); }

constexpr int kSumsPerVec = kLanes / kSumColumns;  // accumulators that make one Vec of columns

}  // namespace
}  // namespace embedserve
