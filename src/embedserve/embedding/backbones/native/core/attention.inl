// One head of one sequence: softmax(q k' / sqrt(d)) v in int8, twice the work of the linear layers' instructions
// per byte saved: without bf16 dot products in the CPU, fp32 attention would cost as much as a third of a layer.
//
// q has a scale a row, k a scale a key, v a scale a channel of the sequence; probabilities are bytes relative to
// the row's largest (Dither says how they are rounded), and the sum that divides them is that of the bytes.
//
// Keys are packed like weights, kLanes keys by four channels at a time; values four keys by all channels. Integer
// sums are exact and the rest is done row by row, so a query's result does not depend on its group.

namespace embedserve {
namespace {

constexpr int kQueries = 6;
constexpr float kByteTop = 7.98868469f;  // log2(254): the largest chance, with the error of exp2_plus, stays a byte

// What is added to a chance before it is rounded: the 64 values evenly between -1/2 and 1/2, neighbours far apart.
// A text often looks at one token with most of its attention and at hundreds with less than half a byte's step each.
// Rounded to the nearest all of those would be nothing; so, a fair part of them is one.
struct Dither {
  static constexpr int kPeriod = 64;
  alignas(64) float at[2 * kPeriod];
  constexpr Dither() : at() {
    for (int i = 0; i < 2 * kPeriod; ++i) at[i] = static_cast<float>(i * 39 % kPeriod) / kPeriod - 0.4921875f;
  }
  // For four vectors of keys from `key` on: its start differs from query to query.
  const float* row(int query, int key) const { return at + query * 23 % kPeriod + key % kPeriod; }
};
constexpr Dither kDither;

struct HeadScratch {
  int padded;       // keys, rounded up so that all loops run over whole vectors
  int8_t* keys;     // [padded / kLanes][d / 4][kLanes][4]
  int8_t* values;   // [padded / 4][d][4]
  uint8_t* chances;  // [kQueries][padded]
  int32_t* key_offset;
  int32_t* value_offset;
  float *key_scale, *value_scale, *scores;

  // Lays the parts out from `base` on; returns the bytes needed.
  size_t place(char* base, int length, int d) {
    padded = round_up(length, 64);
    const uintptr_t start = reinterpret_cast<uintptr_t>(base);
    uintptr_t at = start;
    const auto take = [&](auto*& part, size_t count) {
      part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(at);
      at += (count * sizeof(*part) + 63) / 64 * 64;
    };
    const size_t n = padded;
    take(keys, n * d);
    take(values, n * d);
    take(chances, kQueries * n);
    take(key_offset, n);
    take(value_offset, d);
    take(key_scale, n);
    take(value_scale, d);
    take(scores, kQueries * n);
    return at - start;
  }
};

size_t attention_bytes(const Shape& shape, int length) {
  return HeadScratch{}.place(nullptr, length, shape.head_size());
}

// Bytes 128 + round(x * 127 / max|x|) of `count` heads of d columns; the scales are max|x| / 127. With D given,
// heads that fill four vectors together are converted together.
template <int D>
LANE_INLINE void symmetric_heads(const float* x, int count, int d, uint8_t* bytes, float* scale) {
  constexpr int step = 4 * kLanes, together = D && D < step ? step / D : 1, size = D ? D : step;
  const Vec offset = splat(128.0f);
  int head = 0;
  for (; D && D % kLanes == 0 && head + together <= count; head += together) {
    const float* from = x + head * D;
    Vec inverse[together];
#pragma GCC unroll 4
    for (int h = 0; h < together; ++h) {
      Vec top = splat(1e-20f);
#pragma GCC unroll 8
      for (int i = 0; i < D; i += kLanes) top = max(top, abs(load(from + h * D + i)));
      const float most = largest(top);
      scale[head + h] = most * (1.0f / 127.0f);
      inverse[h] = splat(127.0f / most);
    }
    const auto scaled = [&](int i) __attribute__((always_inline)) { return fma(load(from + i), inverse[i / size], offset); };
#pragma GCC unroll 8
    for (int i = 0; i < together * D; i += step)
      store_bytes(bytes + head * D + i, to_bytes(scaled(i), scaled(i + kLanes), scaled(i + 2 * kLanes), scaled(i + 3 * kLanes)));
  }
  for (; head < count; ++head) {
    const float* from = x + head * d;
    Vec top = splat(1e-20f);
    for (int i = 0; i < d; i += kLanes) top = max(top, abs(load(from + i)));
    const float most = largest(top);
    scale[head] = most * (1.0f / 127.0f);
    const Vec inverse = splat(127.0f / most);
    for (int i = 0; i < d; i += kLanes) store_bytes(bytes + head * d + i, fma(load(from + i), inverse, offset));
  }
}

void split_heads(const float* qkv, const Shape& shape, const HeadRows& to) {
  const int d = shape.head_size(), hidden = shape.hidden;
  const auto symmetric = d == 32 ? symmetric_heads<32> : d == 64 ? symmetric_heads<64> : symmetric_heads<0>;
  uint8_t* k = reinterpret_cast<uint8_t*>(to.k);
  symmetric(qkv, shape.heads, d, to.q, to.q_scale);
  symmetric(qkv + hidden, shape.heads, d, k, to.k_scale);
  for (int i = 0; i < hidden; ++i) k[i] ^= 0x80;  // 128 + value to value
  memcpy(to.v, qkv + 2 * hidden, sizeof(float) * hidden);
}

// factor times the sum over the packed depth, for one vector of columns: what a zero point adds to every product.
LANE_INLINE void add_columns(const int8_t* packed, int step_bytes, int steps, int factor, int32_t* offset) {
  alignas(4) static const uint8_t one[4] = {kShift + 1, kShift + 1, kShift + 1, kShift + 1};
  Sums c[kSumsPerVec];
  for (int j = 0; j < kSumsPerVec; ++j) c[j] = no_sums();
  if (factor)
    for (int step = 0; step < steps; ++step)
      for (int j = 0; j < kSumsPerVec; ++j)
        dot(c[j], broadcast_four(one), load_weights(packed + static_cast<size_t>(step) * step_bytes + j * kSumColumns * 4));
  store_ints(offset, mul(total(c), splat(static_cast<float>(factor))));
}

LANE_INLINE void prepare_head(const AttentionTask& t, const Shape& shape, int d, const HeadScratch& s) {
  const int blocks = round_up(t.length, kLanes), hidden = shape.hidden;
  const int8_t* k = t.rows.k + t.head * d;
  for (int key = 0; key < blocks; ++key) {
    const bool inside = key < t.length;
    s.key_scale[key] = inside ? t.rows.k_scale[static_cast<size_t>(key) * shape.heads + t.head] : 0.0f;
    int8_t* to = s.keys + static_cast<size_t>(key / kLanes) * kLanes * d + key % kLanes * 4;
    for (int i = 0; i < d; i += 4, to += 4 * kLanes) {
      int32_t four = 0;
      if (inside) memcpy(&four, k + static_cast<size_t>(key) * hidden + i, 4);
      memcpy(to, &four, 4);
    }
  }
  for (int key = 0; key < blocks; key += kLanes)
    add_columns(s.keys + static_cast<size_t>(key) * d, 4 * kLanes, d / 4, kShift - 128, s.key_offset + key);

  const float* v = t.rows.v + t.head * d;
  for (int i = 0; i < d; i += kLanes) {
    Vec top = splat(1e-20f);
    for (int key = 0; key < t.length; ++key) top = max(top, abs(load(v + static_cast<size_t>(key) * hidden + i)));
    const Vec inverse = divide(splat(127.0f), top);
    store(s.value_scale + i, mul(top, splat(1.0f / 127.0f)));
    for (int key = 0; key < t.length; key += 4) {
      Vec part[4];
      for (int j = 0; j < 4; ++j)
        part[j] = key + j < t.length ? mul(load(v + static_cast<size_t>(key + j) * hidden + i), inverse) : splat(0);
      interleave_bytes(s.values + (static_cast<size_t>(key / 4) * d + i) * 4, part[0], part[1], part[2], part[3]);
    }
  }
  for (int i = 0; i < d; i += kLanes) add_columns(s.values + i * 4, d * 4, (t.length + 3) / 4, kShift, s.value_offset + i);
}

// Scores of Q queries against B vectors of keys from `key` on, in units of the query's scale.
template <int Q, int B>
LANE_INLINE void score(const HeadScratch& s, const uint8_t* queries, int query_stride, int d, int key, int length,
                       Vec* top) {
  Sums c[Q][B * kSumsPerVec];
#pragma GCC unroll 8
  for (int j = 0; j < B * kSumsPerVec; ++j)
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) c[i][j] = start_sums(s.key_offset + key + j * kSumColumns);
  const int8_t* keys = s.keys + static_cast<size_t>(key) * d;
  for (int step = 0; step < d; step += 4) {
    Weights w[B * kSumsPerVec];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b)
#pragma GCC unroll 8
      for (int j = 0; j < kSumsPerVec; ++j)
        w[b * kSumsPerVec + j] = load_weights(keys + b * kLanes * d + step * kLanes + j * kSumColumns * 4);
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
      const Four q = broadcast_four(queries + i * query_stride + step);
#pragma GCC unroll 8
      for (int j = 0; j < B * kSumsPerVec; ++j) dot(c[i][j], q, w[j]);
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
    const Vec scale = load(s.key_scale + key + b * kLanes);
    const int left = length - key - b * kLanes;
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
      Vec x = mul(total(&c[i][b * kSumsPerVec]), scale);
      if (left < kLanes) x = keep_first(x, left, -1e30f);
      top[i] = max(top[i], x);
      store(s.scores + static_cast<size_t>(i) * s.padded + key + b * kLanes, x);
    }
  }
}

// C channels from `column` on of Q rows of chances x values.
template <int Q, int C>
LANE_INLINE void mix(const HeadScratch& s, int d, int length, int column, const float* inverse, float* out, int stride) {
  constexpr int B = C / kSumColumns;
  Sums c[Q][B];
#pragma GCC unroll 8
  for (int j = 0; j < B; ++j)
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) c[i][j] = start_sums(s.value_offset + column + j * kSumColumns);
  const int8_t* values = s.values + column * 4;
  for (int key = 0; key < length; key += 4, values += d * 4) {
    Weights w[B];
#pragma GCC unroll 8
    for (int j = 0; j < B; ++j) w[j] = load_weights(values + j * kSumColumns * 4);
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i) {
      const Four p = broadcast_four(s.chances + static_cast<size_t>(i) * s.padded + key);
#pragma GCC unroll 8
      for (int j = 0; j < B; ++j) dot(c[i][j], p, w[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < B / kSumsPerVec; ++j) {
    const Vec scale = load(s.value_scale + column + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Q; ++i)
      store(out + static_cast<size_t>(i) * stride + column + j * kLanes,
            mul(mul(total(&c[i][j * kSumsPerVec]), scale), splat(inverse[i])));
  }
}

template <int Q>
__attribute__((noinline)) void attend(const AttentionTask& t, const HeadScratch& s, const Shape& shape, int first) {
  const int d = shape.head_size();
  Vec top[Q];
  for (int i = 0; i < Q; ++i) top[i] = splat(-1e30f);
  const uint8_t* queries = t.rows.q + static_cast<size_t>(first) * shape.hidden + t.head * d;
  int key = 0;
  if (kLanes == 16)  // with 32 registers four vectors of keys share each broadcast
    for (; key + 3 * kLanes < t.length; key += 4 * kLanes) score<Q, 4>(s, queries, shape.hidden, d, key, t.length, top);
  for (; key + kLanes < t.length; key += 2 * kLanes) score<Q, 2>(s, queries, shape.hidden, d, key, t.length, top);
  if (key < t.length) score<Q, 1>(s, queries, shape.hidden, d, key, t.length, top);

  const float to_log2 = 1.44269504f / std::sqrt(static_cast<float>(d));
  float inverse[Q];
  for (int i = 0; i < Q; ++i) {
    const float factor = t.rows.q_scale[static_cast<size_t>(first + i) * shape.heads + t.head] * to_log2;
    const Vec scale = splat(factor), shift = splat(kByteTop - factor * largest(top[i]));
    const float* row = s.scores + static_cast<size_t>(i) * s.padded;
    uint8_t* chances = s.chances + static_cast<size_t>(i) * s.padded;
    ByteSum sum = no_bytes();
    const auto chance = [&](int j) __attribute__((always_inline)) {
      const Vec dither = load(kDither.row(first + i, key) + j * kLanes);
      return exp2_plus(fma(load(row + key + j * kLanes), scale, shift), dither);
    };
    const auto keep = [&](Bytes bytes) __attribute__((always_inline)) {
      store_bytes(chances + key, bytes);
      add_bytes(sum, bytes);
    };
    for (key = 0; key + 3 * kLanes < t.length; key += 4 * kLanes) keep(to_bytes(chance(0), chance(1), chance(2), chance(3)));
    if (key < t.length)
      keep(to_bytes(chance(0), key + kLanes < t.length ? chance(1) : splat(0),
                    key + 2 * kLanes < t.length ? chance(2) : splat(0), splat(0)));
    inverse[i] = 1.0f / static_cast<float>(total(sum));
  }
  float* out = t.context + static_cast<size_t>(first) * t.context_stride + t.head * d;
  int column = 0;
  if (kLanes == 16)  // with 32 registers two vectors of channels share each broadcast
    for (; column + 32 <= d; column += 32) mix<Q, 32>(s, d, t.length, column, inverse, out, t.context_stride);
  for (; column < d; column += 16) mix<Q, 16>(s, d, t.length, column, inverse, out, t.context_stride);
}

// All queries, Q at a time; the last group overlaps the one before where they do not come out even.
template <int Q>
LANE_INLINE void attend_all(const AttentionTask& t, const HeadScratch& s, const Shape& shape) {
  if constexpr (Q > 1)
    if (t.length < Q) return attend_all<Q - 1>(t, s, shape);
  for (int first = 0; first < t.length; first += Q) attend<Q>(t, s, shape, first + Q <= t.length ? first : t.length - Q);
}

void attention(const AttentionTask& t, const Shape& shape, char* scratch) {
  const int d = shape.head_size();
  HeadScratch s;
  s.place(scratch, t.length, d);
  prepare_head(t, shape, d, s);
  attend_all<kQueries>(t, s, shape);
}

}  // namespace
}  // namespace embedserve
