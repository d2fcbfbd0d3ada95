// One head of one sequence in fp32: softmax(q k^T / sqrt(d)) v, for sets without a faster form.
//
// Keys are transposed once into blocks of kLanes keys, so that a block's scores for a query are one vector.
// Queries go in groups that share the loads of keys and values; each query's sums keep their order in any group.

namespace embedserve {
namespace {

constexpr int kQueries = 4;

size_t attention_bytes(const Shape& shape, int length) {
  const size_t padded = round_up(length, kLanes);
  return sizeof(float) * (padded * shape.head_size() + kQueries * padded) + 64;
}

template <int Q>
void attend(const AttentionTask& t, int first, int d, int hidden, const float* keys, float* scores) {
  const int padded = round_up(t.length, kLanes);
  const float to_log2 = 1.44269504f / std::sqrt(static_cast<float>(d));
  const float* query[Q];
  for (int i = 0; i < Q; ++i) query[i] = t.qkv + static_cast<size_t>(first + i) * t.stride + t.head * d;
  Vec top[Q];
  for (int i = 0; i < Q; ++i) top[i] = splat(-1e30f);
  for (int s = 0; s < padded; s += kLanes) {
    Vec c[Q];
    for (int i = 0; i < Q; ++i) c[i] = splat(0);
    const float* block = keys + static_cast<size_t>(s) * d;
    for (int j = 0; j < d; ++j) {
      const Vec key = load(block + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i) c[i] = fma(splat(query[i][j]), key, c[i]);
    }
    for (int i = 0; i < Q; ++i) {
      c[i] = keep_first(mul(c[i], splat(to_log2)), t.length - s, -1e30f);
      top[i] = max(top[i], c[i]);
      store(scores + static_cast<size_t>(i) * padded + s, c[i]);
    }
  }
  float inverse[Q];
  for (int i = 0; i < Q; ++i) {
    float* row = scores + static_cast<size_t>(i) * padded;
    const Vec most = splat(largest(top[i]));
    Vec all = splat(0);
    for (int s = 0; s < padded; s += kLanes) {
      const Vec e = keep_first(exp2_lanes(sub(load(row + s), most)), t.length - s, 0.0f);
      all = add(all, e);
      store(row + s, e);
    }
    inverse[i] = 1.0f / sum(all);
  }
  for (int j = 0; j < d; j += kLanes) {
    Vec o[Q];
    for (int i = 0; i < Q; ++i) o[i] = splat(0);
    const float* value = t.qkv + 2 * hidden + t.head * d + j;
    for (int s = 0; s < t.length; ++s, value += t.stride) {
      const Vec v = load(value);
#pragma GCC unroll 8
      for (int i = 0; i < Q; ++i) o[i] = fma(splat(scores[static_cast<size_t>(i) * padded + s]), v, o[i]);
    }
    for (int i = 0; i < Q; ++i)
      store(t.context + static_cast<size_t>(first + i) * t.context_stride + t.head * d + j, mul(o[i], splat(inverse[i])));
  }
}

void attention(const AttentionTask& t, const Shape& shape, char* scratch) {
  const int d = shape.head_size(), padded = round_up(t.length, kLanes);
  float* keys = reinterpret_cast<float*>(scratch);
  float* scores = keys + static_cast<size_t>(padded) * d;
  for (int s = 0; s < padded; ++s) {
    float* to = keys + static_cast<size_t>(s / kLanes) * kLanes * d + s % kLanes;
    const float* from = t.qkv + static_cast<size_t>(s) * t.stride + shape.hidden + t.head * d;
    for (int j = 0; j < d; ++j) to[j * kLanes] = s < t.length ? from[j] : 0.0f;
  }
  int q = 0;
  for (; q + kQueries <= t.length; q += kQueries) attend<kQueries>(t, q, d, shape.hidden, keys, scores);
  for (; q < t.length; ++q) attend<1>(t, q, d, shape.hidden, keys, scores);
}

}  // namespace
}  // namespace embedserve
