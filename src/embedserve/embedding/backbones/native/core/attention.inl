// One head of one sequence: softmax(q k' / sqrt(d)) v in int8, twice the work of the linear layers' instructions
// per byte saved: without bf16 dot products in the CPU, fp32 attention would cost as much as a third of a layer.
//
// q has a scale a row, k a scale a key, v a scale a channel of the sequence; probabilities are bytes relative to
// the row's largest, and the sum that divides them is that of the bytes, so what rounding drops is made up for.
// Together this costs 3e-5 of cosine, a tenth of what rounding the linear layers' inputs costs.
//
// Keys are packed like weights, kLanes keys by four channels at a time; values four keys by all channels. Integer
// sums are exact and the rest is done row by row, so a query's result does not depend on its group.

namespace embedserve {
namespace {

constexpr int kQueries = 6;
constexpr float kByteTop = 7.99435344f;  // log2(255)

struct HeadScratch {
  int padded;       // keys, rounded up so that all loops run over whole vectors
  int8_t* keys;     // [padded / kLanes][d / 4][kLanes][4]
  int8_t* values;   // [padded / 4][d][4]
  uint8_t* queries;  // [length][d]
  uint8_t* chances;  // [kQueries][padded]
  int32_t* key_offset;
  int32_t* value_offset;
  float *key_scale, *query_scale, *value_scale, *scores;

  // Lays the parts out from `base` on; returns the bytes needed.
  size_t place(char* base, int length, int d) {
    padded = round_up(length, 64);
    char* at = base;
    const auto take = [&](auto*& part, size_t count) {
      part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(at);
      at += (count * sizeof(*part) + 63) / 64 * 64;
    };
    const size_t n = padded;
    take(keys, n * d);
    take(values, n * d);
    take(queries, n * d);
    take(chances, kQueries * n);
    take(key_offset, n);
    take(value_offset, d);
    take(key_scale, n);
    take(query_scale, n);
    take(value_scale, d);
    take(scores, kQueries * n);
    return static_cast<size_t>(at - base);
  }
};

size_t attention_bytes(const Shape& shape, int length) {
  return HeadScratch{}.place(nullptr, length, shape.head_size());
}

// Bytes 128 + round(x * 127 / max|x|); returns max|x| / 127.
LANE_INLINE float symmetric_row(const float* x, int d, uint8_t* bytes) {
  Vec top = splat(1e-20f);
  for (int i = 0; i < d; i += kLanes) top = max(top, abs(load(x + i)));
  const float most = largest(top);
  const Vec inverse = splat(127.0f / most);
  for (int i = 0; i < d; i += kLanes) store_bytes(bytes + i, fma(load(x + i), inverse, splat(128.0f)));
  return most * (1.0f / 127.0f);
}

// Sums over the packed depth of each column: what a zero point of one adds to every product.
LANE_INLINE void add_columns(const int8_t* packed, int columns, int steps, int factor, int32_t* offset) {
  for (int column = 0; column < columns; ++column) offset[column] = 0;
  if (!factor) return;
  for (int step = 0; step < steps; ++step)
    for (int column = 0; column < columns; ++column, packed += 4)
      offset[column] += factor * (packed[0] + packed[1] + packed[2] + packed[3]);
}

LANE_INLINE void prepare_head(const AttentionTask& t, int hidden, int d, const HeadScratch& s) {
  const float* q = t.qkv + t.head * d;
  uint8_t bytes[1024];
  for (int key = 0; key < t.length; ++key) {
    const float* row = q + static_cast<size_t>(key) * t.stride;
    s.query_scale[key] = symmetric_row(row, d, s.queries + static_cast<size_t>(key) * d);
    s.key_scale[key] = symmetric_row(row + hidden, d, bytes);
    int8_t* to = s.keys + static_cast<size_t>(key / kLanes) * kLanes * d + key % kLanes * 4;
    for (int i = 0; i < d; i += 4, to += 4 * kLanes) {
      uint32_t four;
      memcpy(&four, bytes + i, 4);
      four ^= 0x80808080u;  // from 128 + value to value
      memcpy(to, &four, 4);
    }
  }
  const int blocks = round_up(t.length, kLanes);
  for (int key = t.length; key < blocks; ++key) {
    s.key_scale[key] = 0;
    int8_t* to = s.keys + static_cast<size_t>(key / kLanes) * kLanes * d + key % kLanes * 4;
    for (int i = 0; i < d; i += 4, to += 4 * kLanes) memset(to, 0, 4);
  }
  for (int key = 0; key < blocks; key += kLanes)
    add_columns(s.keys + static_cast<size_t>(key) * d, kLanes, d / 4, kShift - 128, s.key_offset + key);

  const float* v = q + 2 * hidden;
  for (int i = 0; i < d; i += kLanes) {
    Vec top = splat(1e-20f);
    for (int key = 0; key < t.length; ++key) top = max(top, abs(load(v + static_cast<size_t>(key) * t.stride + i)));
    const Vec inverse = divide(splat(127.0f), top);
    store(s.value_scale + i, mul(top, splat(1.0f / 127.0f)));
    for (int key = 0; key < t.length; key += 4) {
      Vec part[4];
      for (int j = 0; j < 4; ++j)
        part[j] = key + j < t.length ? mul(load(v + static_cast<size_t>(key + j) * t.stride + i), inverse) : splat(0);
      interleave_bytes(s.values + (static_cast<size_t>(key / 4) * d + i) * 4, part[0], part[1], part[2], part[3]);
    }
  }
  add_columns(s.values, d, (t.length + 3) / 4, kShift, s.value_offset);
}

// Scores of Q queries against B vectors of keys from `key` on, in units of the query's scale.
template <int Q, int B>
LANE_INLINE void score(const HeadScratch& s, const uint8_t* queries, int d, int key, int length, Vec* top) {
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
      const Four q = broadcast_four(queries + i * d + step);
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

// Two vectors of channels from `column` on of Q rows of chances x values.
template <int Q>
LANE_INLINE void mix(const HeadScratch& s, int d, int length, int column, const float* inverse, float* out, int stride) {
  constexpr int B = 16 / kLanes * kSumsPerVec;  // 16 channels
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
__attribute__((noinline)) void attend(const AttentionTask& t, const HeadScratch& s, int first, int d) {
  Vec top[Q];
  for (int i = 0; i < Q; ++i) top[i] = splat(-1e30f);
  const uint8_t* queries = s.queries + static_cast<size_t>(first) * d;
  int key = 0;
  for (; key + kLanes < t.length; key += 2 * kLanes) score<Q, 2>(s, queries, d, key, t.length, top);
  if (key < t.length) score<Q, 1>(s, queries, d, key, t.length, top);

  const float to_log2 = 1.44269504f / std::sqrt(static_cast<float>(d));
  float inverse[Q];
  const int tail = t.length / 64 * 64;
  for (int i = 0; i < Q; ++i) {
    const float factor = s.query_scale[first + i] * to_log2;
    const Vec scale = splat(factor), shift = splat(kByteTop - factor * largest(top[i]));
    const float* row = s.scores + static_cast<size_t>(i) * s.padded;
    uint8_t* chances = s.chances + static_cast<size_t>(i) * s.padded;
    if (tail < s.padded) memset(chances + tail, 0, 64);
    for (key = 0; key < t.length; key += kLanes) store_bytes(chances + key, exp2_coarse(fma(load(row + key), scale, shift)));
    inverse[i] = 1.0f / static_cast<float>(sum_bytes(chances, s.padded));
  }
  float* out = t.context + static_cast<size_t>(first) * t.context_stride + t.head * d;
  for (int column = 0; column < d; column += 16) mix<Q>(s, d, t.length, column, inverse, out, t.context_stride);
}

void attention(const AttentionTask& t, const Shape& shape, char* scratch) {
  const int d = shape.head_size();
  HeadScratch s;
  s.place(scratch, t.length, d);
  prepare_head(t, shape.hidden, d, s);
  int q = 0;
  for (; q + kQueries <= t.length; q += kQueries) attend<kQueries>(t, s, q, d);
  for (; q + 2 <= t.length; q += 2) attend<2>(t, s, q, d);
  for (; q < t.length; ++q) attend<1>(t, s, q, d);
}

}  // namespace
}  // namespace embedserve
