// Row kernels, written once over the lanes of simd_*.h: quantisation, layer norm, activation, embedding.
// Every sum over a row runs in the same order whatever else is computed: results are bit-equal in any batch.
#include <cmath>
#include <cstring>

namespace embedserve {
namespace {

// x * Phi(x), the exact (erf) GELU within 5e-4, a twentieth of what its rounding to bytes costs: an odd polynomial
// of Phi - 1/2 that reaches 1/2 where it is clamped.
LANE_INLINE Vec gelu(Vec x) {
  const Vec c = clamp(x, 3.7f), u = mul(c, c);
  Vec p = splat(-4.89975576e-07f);
  p = fma(p, u, splat(2.6888841e-05f));
  p = fma(p, u, splat(-0.000617502933f));
  p = fma(p, u, splat(0.00784870453f));
  p = fma(p, u, splat(-0.0625877357f));
  p = fma(p, u, splat(0.396475101f));
  return mul(x, fma(c, p, splat(0.5f)));
}

// 2^x + addend, 2^x within a part in 500 (it becomes a byte) and zero below 2^-127.
LANE_INLINE Vec exp2_plus(Vec x, Vec addend) {
  // Adding 1.5 * 2^23 + 127 rounds x to the nearest integer and leaves it in the low bits, biased as an exponent.
  const Vec magic = splat(12583039.0f);
  x = max(x, splat(-127.0f));
  const Vec shifted = add(x, magic), f = sub(x, sub(shifted, magic));
  const Vec p = fma(fma(splat(0.23842894f), f, splat(0.70344801f)), f, splat(1.00044314f));
  return fma(p, power_bits(shifted), addend);
}

// A sum over a row in four strands, always the same ones: f(i, strand) adds the vector at i.
template <class F>
LANE_INLINE float sum_row(int n, const F& f) {
  Vec strands[4] = {splat(0), splat(0), splat(0), splat(0)};
  int i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) strands[j] = f(i + j * kLanes, strands[j]);
  for (; i < n; i += kLanes) strands[0] = f(i, strands[0]);
  return sum(add(add(strands[0], strands[1]), add(strands[2], strands[3])));
}

RowScale quantise(const float* x, int k, uint8_t* q) {
  constexpr int step = 4 * kLanes;
  const int whole = k / step * step;
  Vec low[2] = {splat(0), splat(0)}, high[2] = {splat(0), splat(0)};
  for (int i = 0; i < k; i += 2 * kLanes)
    for (int j = 0; j < 2; ++j) {
      const Vec v = load(x + i + j * kLanes);
      low[j] = min(low[j], v);
      high[j] = max(high[j], v);
    }
  const float most = largest(max(high[0], high[1])), least = -largest(sub(splat(0), min(low[0], low[1])));
  const float range = std::fmax(most - least, 1e-20f), steps = 254.0f / range;
  // 254 steps, and a zero point rounded up, keep every byte inside 0..255 without clamping.
  const float zero = static_cast<float>(static_cast<int>(-least * steps) + 1);
  const Vec inverse = splat(steps), offset = splat(zero);
  const auto scaled = [&](int i) __attribute__((always_inline)) { return fma(load(x + i), inverse, offset); };
  for (int i = 0; i < whole; i += step)
    store_bytes(q + i, to_bytes(scaled(i), scaled(i + kLanes), scaled(i + 2 * kLanes), scaled(i + 3 * kLanes)));
  for (int i = whole; i < k; i += kLanes) store_bytes(q + i, scaled(i));
  return {range * (1.0f / 254.0f), zero - kShift};
}

void layer_norm(const float* x, const float* gain, const float* bias, int n, float eps, float* out) {
  const float count = static_cast<float>(n);
  const Vec mean = splat(
      sum_row(n, [&](int i, Vec strand) __attribute__((always_inline)) { return add(strand, load(x + i)); }) / count);
  const float square = sum_row(n, [&](int i, Vec strand) __attribute__((always_inline)) {
    const Vec centred = sub(load(x + i), mean);
    return fma(centred, centred, strand);
  });
  const Vec inverse = splat(1.0f / std::sqrt(square / count + eps));
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
