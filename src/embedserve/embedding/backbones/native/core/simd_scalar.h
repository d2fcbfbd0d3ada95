// Eight lanes of plain C++ for the generic kernels: runs everywhere, and shows what each operation means.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace embedserve {
namespace {

#define LANE_INLINE static inline __attribute__((always_inline))
#define EACH_LANE for (int lane = 0; lane < kLanes; ++lane)

constexpr int kLanes = 8;
struct Vec {
  float at[kLanes];
};

LANE_INLINE Vec load(const float* p) { Vec v; memcpy(v.at, p, sizeof v.at); return v; }
LANE_INLINE void store(float* p, Vec v) { memcpy(p, v.at, sizeof v.at); }
LANE_INLINE Vec splat(float x) { Vec v; EACH_LANE v.at[lane] = x; return v; }
LANE_INLINE Vec add(Vec a, Vec b) { EACH_LANE a.at[lane] += b.at[lane]; return a; }
LANE_INLINE Vec sub(Vec a, Vec b) { EACH_LANE a.at[lane] -= b.at[lane]; return a; }
LANE_INLINE Vec mul(Vec a, Vec b) { EACH_LANE a.at[lane] *= b.at[lane]; return a; }
LANE_INLINE Vec fma(Vec a, Vec b, Vec c) { EACH_LANE c.at[lane] = a.at[lane] * b.at[lane] + c.at[lane]; return c; }
LANE_INLINE Vec divide(Vec a, Vec b) { EACH_LANE a.at[lane] /= b.at[lane]; return a; }
LANE_INLINE Vec max(Vec a, Vec b) { EACH_LANE a.at[lane] = a.at[lane] > b.at[lane] ? a.at[lane] : b.at[lane]; return a; }
LANE_INLINE Vec min(Vec a, Vec b) { EACH_LANE a.at[lane] = a.at[lane] < b.at[lane] ? a.at[lane] : b.at[lane]; return a; }
LANE_INLINE Vec abs(Vec a) { EACH_LANE a.at[lane] = std::fabs(a.at[lane]); return a; }
// Adding and taking away 1.5 * 2^23 leaves the nearest integer, ties to even, for |x| < 2^22.
LANE_INLINE float nearest(float x) {
  volatile float shifted = x + 12582912.0f;
  return shifted - 12582912.0f;
}
LANE_INLINE Vec clamp(Vec a, float limit) { return min(max(a, splat(-limit)), splat(limit)); }
// The low bits of a as the exponent of a float: 2^(n - 127) for an integer n in them.
LANE_INLINE Vec power_bits(Vec a) {
  EACH_LANE {
    uint32_t bits;
    memcpy(&bits, &a.at[lane], 4);
    bits <<= 23;
    memcpy(&a.at[lane], &bits, 4);
  }
  return a;
}
LANE_INLINE float sum(Vec a) {
  return ((a.at[0] + a.at[4]) + (a.at[2] + a.at[6])) + ((a.at[1] + a.at[5]) + (a.at[3] + a.at[7]));
}
LANE_INLINE float largest(Vec a) {
  float most = a.at[0];
  EACH_LANE most = most > a.at[lane] ? most : a.at[lane];
  return most;
}
// Lanes from `count` on become `fill`.
LANE_INLINE Vec keep_first(Vec a, int count, float fill) {
  EACH_LANE if (lane >= count) a.at[lane] = fill;
  return a;
}
LANE_INLINE void store_bytes(uint8_t* p, Vec v) {  // rounded; v from 0 to 255
  EACH_LANE p[lane] = static_cast<uint8_t>(nearest(v.at[lane]));
}
// Four vectors as bytes in order, rounded and held between 0 and 255.
struct Bytes {
  uint8_t at[4 * kLanes];
};
LANE_INLINE Bytes to_bytes(Vec a, Vec b, Vec c, Vec d) {
  Bytes bytes;
  const Vec all[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) store_bytes(bytes.at + i * kLanes, min(max(all[i], splat(0)), splat(255)));
  return bytes;
}
LANE_INLINE void store_bytes(uint8_t* p, Bytes v) { memcpy(p, v.at, sizeof v.at); }
struct ByteSum {
  int32_t all;
};
LANE_INLINE ByteSum no_bytes() { return {0}; }
LANE_INLINE void add_bytes(ByteSum& sum, Bytes v) { for (uint8_t byte : v.at) sum.all += byte; }
LANE_INLINE int32_t total(ByteSum sum) { return sum.all; }

LANE_INLINE void store_ints(int32_t* p, Vec v) { EACH_LANE p[lane] = static_cast<int32_t>(nearest(v.at[lane])); }
// Signed bytes of four vectors, lane by lane: a0 b0 c0 d0 a1 b1 ...
LANE_INLINE void interleave_bytes(int8_t* p, Vec a, Vec b, Vec c, Vec d) {
  EACH_LANE {
    p[4 * lane] = static_cast<int8_t>(nearest(a.at[lane]));
    p[4 * lane + 1] = static_cast<int8_t>(nearest(b.at[lane]));
    p[4 * lane + 2] = static_cast<int8_t>(nearest(c.at[lane]));
    p[4 * lane + 3] = static_cast<int8_t>(nearest(d.at[lane]));
  }
}

constexpr int kShift = 0;  // taken from every activation byte by dot()
struct Sums {
  int32_t at[kLanes];
};
using Four = const uint8_t*;
using Weights = const int8_t*;
constexpr int kTileRows = 2, kTileVectors = 1, kSumColumns = kLanes;
LANE_INLINE Sums no_sums() { return Sums{}; }
LANE_INLINE Four broadcast_four(const uint8_t* a) { return a; }
LANE_INLINE Weights load_weights(const int8_t* w) { return w; }
LANE_INLINE void dot(Sums& c, Four a, Weights w) {
  EACH_LANE c.at[lane] += a[0] * w[4 * lane] + a[1] * w[4 * lane + 1] + a[2] * w[4 * lane + 2] + a[3] * w[4 * lane + 3];
}
LANE_INLINE Sums start_sums(const int32_t* offset) { Sums c; memcpy(c.at, offset, sizeof c.at); return c; }
LANE_INLINE Vec total(const Sums* c) {
  Vec v;
  EACH_LANE v.at[lane] = static_cast<float>(c->at[lane]);
  return v;
}

constexpr int kSumsPerVec = kLanes / kSumColumns;  // accumulators that make one Vec of columns

}  // namespace
}  // namespace embedserve
