// Row kernels of the decoder: norms, rotation, gating. As in rows.inl, every sum over a row has one fixed order.

namespace embedserve {
namespace {

// 2^x within 3e-7 of the result, for x up to 127; zero below -126.
LANE_INLINE Vec exp2_fine(Vec x) {
  // Adding 1.5 * 2^23 + 127 rounds x to the nearest integer and leaves it in the low bits, biased as an exponent.
  const Vec magic = splat(12583039.0f);
  x = max(x, splat(-127.0f));
  const Vec shifted = add(x, magic), f = sub(x, sub(shifted, magic));
  Vec p = splat(0.00132764713f);
  p = fma(p, f, splat(0.00967554096f));
  p = fma(p, f, splat(0.0555071309f));
  p = fma(p, f, splat(0.240221202f));
  p = fma(p, f, splat(0.693146944f));
  p = fma(p, f, splat(1.00000012f));
  return mul(p, power_bits(shifted));
}

LANE_INLINE float inverse_rms(const float* x, int n, float eps) {
  Vec total0 = splat(0), total1 = splat(0);
  for (int i = 0; i < n; i += 2 * kLanes) {
    const Vec a = load(x + i), b = load(x + i + kLanes);
    total0 = fma(a, a, total0);
    total1 = fma(b, b, total1);
  }
  return 1.0f / std::sqrt(sum(add(total0, total1)) / static_cast<float>(n) + eps);
}

void rms_norm(const float* x, const float* gain, int n, float eps, float* out) {
  const Vec inverse = splat(inverse_rms(x, n, eps));
  for (int i = 0; i < n; i += kLanes) store(out + i, mul(mul(load(x + i), inverse), load(gain + i)));
}

void rotate_head(const float* x, const float* gain, const float* cosines, const float* sines, int d, float eps, float* out) {
  const Vec inverse = splat(inverse_rms(x, d, eps));
  const int half = d / 2;
  for (int i = 0; i < half; i += kLanes) {
    const Vec left = mul(mul(load(x + i), inverse), load(gain + i));
    const Vec right = mul(mul(load(x + half + i), inverse), load(gain + half + i));
    const Vec c = load(cosines + i), s = load(sines + i);
    store(out + i, sub(mul(left, c), mul(right, s)));
    store(out + half + i, fma(right, c, mul(left, s)));
  }
}

int take_outliers(float* x, int k, Outlier* out) {
  Vec total0 = splat(0), total1 = splat(0), top = splat(0);
  for (int i = 0; i < k; i += 2 * kLanes) {
    const Vec a = abs(load(x + i)), b = abs(load(x + i + kLanes));
    total0 = add(total0, a);
    total1 = add(total1, b);
    top = max(top, max(a, b));
  }
  const float limit = sum(add(total0, total1)) * (static_cast<float>(kOutlierTimes) / static_cast<float>(k));
  if (largest(top) <= limit) return 0;
  int count = 0;
  for (int i = 0; i < k; i += 2 * kLanes) {
    if (largest(max(abs(load(x + i)), abs(load(x + i + kLanes)))) <= limit) continue;
    for (int j = i; j < i + 2 * kLanes && count < kMostOutliers; ++j)
      if (std::fabs(x[j]) > limit) {
        out[count++] = {j, x[j]};
        x[j] = 0;
      }
  }
  return count;
}

// Four inputs' weights for each of kLanes outputs, and the sums of these outputs, as the compiler's own vectors.
using FourWeights = int32_t __attribute__((vector_size(4 * kLanes)));
using OutputSums = float __attribute__((vector_size(4 * kLanes)));

void add_outliers(const Outlier* outliers, int count, const Linear& linear, float* out, int panel_begin, int panel_end) {
  constexpr int strands = kPanel / kLanes < 4 ? kPanel / kLanes : 4;
  for (int first = panel_begin * kPanel; first < panel_end * kPanel; first += strands * kLanes) {
    const int8_t* panel = linear.panel(first / kPanel) + first % kPanel * kDepth;
    OutputSums sums[strands] = {};
    for (int i = 0; i < count; ++i) {
      const int8_t* packed = panel + static_cast<size_t>(outliers[i].column / kDepth) * kPanel * kDepth;
      const int shift = 24 - 8 * (outliers[i].column % kDepth);
#pragma GCC unroll 4
      for (int j = 0; j < strands; ++j) {
        FourWeights fours;
        memcpy(&fours, packed + j * kLanes * kDepth, sizeof fours);
        sums[j] += outliers[i].value * __builtin_convertvector((fours << shift) >> 24, OutputSums);
      }
    }
    float products[strands * kLanes];
    memcpy(products, sums, sizeof products);
    for (int j = 0; j < strands; ++j) {
      float* to = out + first + j * kLanes;
      store(to, fma(load(products + j * kLanes), load(linear.scale + first + j * kLanes), load(to)));
    }
  }
}

void swiglu(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += kLanes) {
    const Vec g = load(gate + i);
    const Vec power = clamp(mul(g, splat(-1.44269504f)), 120.0f);
    store(out + i, mul(divide(g, add(splat(1.0f), exp2_fine(power))), load(up + i)));
  }
}

}  // namespace
}  // namespace embedserve
