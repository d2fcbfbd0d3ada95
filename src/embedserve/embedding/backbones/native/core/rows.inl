// Row kernels, written once over the lanes of simd_*.h: quantisation, layer norm, activation, embedding.
// Every sum over a row runs in the same order whatever else is computed: results are bit-equal in any batch.
#include <cmath>
#include <cstring>

namespace embedserve {
namespace {

// x * Phi(x), the exact (erf) GELU within 3e-5: an odd polynomial of Phi - 1/2, clamped where it is flat.
LANE_INLINE Vec gelu(Vec x) {
  const Vec c = min(max(x, splat(-4.2f)), splat(4.2f));
  const Vec u = mul(c, c);
  Vec p = splat(4.71154171e-11f);
  p = fma(p, u, splat(-4.62782595e-09f));
  p = fma(p, u, splat(2.0172491e-07f));
  p = fma(p, u, splat(-5.19173816e-06f));
  p = fma(p, u, splat(8.88289027e-05f));
  p = fma(p, u, splat(-0.00108040036f));
  p = fma(p, u, splat(0.00972067526f));
  p = fma(p, u, splat(-0.0661889953f));
  p = fma(p, u, splat(0.398815748f));
  return mul(x, fma(c, p, splat(0.5f)));
}

// 2^x within a part in 5,000, for bytes.
LANE_INLINE Vec exp2_coarse(Vec x) {
  const Vec f = fraction(x);
  Vec p = splat(0.077907164f);
  p = fma(p, f, splat(0.226233194f));
  p = fma(p, f, splat(0.695777096f));
  p = fma(p, f, splat(0.999927827f));
  return scale_by_power(p, x);
}

RowScale quantise(const float* x, int k, uint8_t* q) {
  Vec low = splat(0), high = splat(0);
  for (int i = 0; i < k; i += kLanes) {
    const Vec v = load(x + i);
    low = min(low, v);
    high = max(high, v);
  }
  const float least = -largest(sub(splat(0), low)), range = std::fmax(largest(high) - least, 1e-20f);
  // 254 steps, and a zero point rounded up, keep every byte inside 0..255 without clamping.
  const Vec inverse = splat(254.0f / range);
  const float zero = static_cast<float>(static_cast<int>(-least * (254.0f / range)) + 1);
  for (int i = 0; i < k; i += kLanes) store_bytes(q + i, fma(load(x + i), inverse, splat(zero)));
  return {range * (1.0f / 254.0f), zero - kShift};
}

void layer_norm(const float* x, const float* gain, const float* bias, int n, float eps, float* out) {
  Vec total0 = splat(0), total1 = splat(0);
  for (int i = 0; i < n; i += 2 * kLanes) {
    total0 = add(total0, load(x + i));
    total1 = add(total1, load(x + i + kLanes));
  }
  const Vec mean = splat(sum(add(total0, total1)) / static_cast<float>(n));
  Vec square0 = splat(0), square1 = splat(0);
  for (int i = 0; i < n; i += 2 * kLanes) {
    const Vec a = sub(load(x + i), mean), b = sub(load(x + i + kLanes), mean);
    square0 = fma(a, a, square0);
    square1 = fma(b, b, square1);
  }
  const Vec inverse = splat(1.0f / std::sqrt(sum(add(square0, square1)) / static_cast<float>(n) + eps));
  for (int i = 0; i < n; i += kLanes)
    store(out + i, fma(mul(sub(load(x + i), mean), inverse), load(gain + i), load(bias + i)));
}

LANE_INLINE float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, rest = half & 0x7fffu;
  float value;
  if (rest < 0x0400u) {  // subnormal or zero
    value = static_cast<float>(rest) * 5.9604644775390625e-8f;
  } else {
    const uint32_t bits = (rest << 13) + (112u << 23);
    memcpy(&value, &bits, 4);
  }
  return sign ? -value : value;
}

void embed(const uint8_t* blocks, const float* word, const float* position, const float* type, int n,
           float* out) {
  if (blocks)
    for (int i = 0; i < n; i += 32, blocks += 18) {
      uint16_t half;
      memcpy(&half, blocks, 2);
      const float scale = half_to_float(half);
      for (int j = 0; j < 16; ++j) {
        out[i + j] = static_cast<float>((blocks[2 + j] & 15) - 8) * scale;
        out[i + 16 + j] = static_cast<float>((blocks[2 + j] >> 4) - 8) * scale;
      }
    }
  else
    memcpy(out, word, sizeof(float) * n);
  for (int i = 0; i < n; i += kLanes) store(out + i, add(load(out + i), add(load(position + i), load(type + i))));
}

void accumulate(const float* x, float weight, int n, float* into) {
  const Vec w = splat(weight);
  for (int i = 0; i < n; i += kLanes) store(into + i, fma(load(x + i), w, load(into + i)));
}

}  // namespace
}  // namespace embedserve
