// Causal attention of one head of keys with the query heads that share it, block of keys by block of keys, in fp32.
//
// In fp32 because decoders are not encoders: norms with large gains on queries and keys leave a few channels far
// above the rest, and a first token that draws half of every row's attention leaves the others' shares below what a
// byte can say. The linear layers are where the time goes; here it is a twentieth at 128 tokens.
//
// Softmax runs along (Milakov and Gimelshein 2018; blocked as in Dao et al. 2022): each row keeps its largest score,
// the sum of its chances and its mixed values, and scales them down when a larger score turns up. Memory does not
// grow with the sequence. Blocks lie at multiples of kKeyBlock of the sequence, whichever rows are computed together
// and whether the first positions' keys were computed now or kept from before: a row sees the same steps in the same
// order, so its bits are the same.

namespace embedserve {
namespace {

// c[R rows][V vectors of columns] (+)= a[R rows of `depth`] x b[depth][columns]
template <int R, int V, bool kAdd>
LANE_INLINE void multiply_tile(const float* const* a, int depth, const float* b, int b_stride, float* c, int c_stride) {
  Vec sums[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) sums[i][j] = kAdd ? load(c + i * c_stride + j * kLanes) : splat(0);
  for (int k = 0; k < depth; ++k, b += b_stride) {
    Vec right[V];
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) right[j] = load(b + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec left = splat(a[i][k]);
#pragma GCC unroll 8
      for (int j = 0; j < V; ++j) sums[i][j] = fma(left, right[j], sums[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) store(c + i * c_stride + j * kLanes, sums[i][j]);
}

template <int R, bool kAdd>
__attribute__((noinline)) void multiply_rows(const float* const* a, int depth, const float* b, int b_stride, int columns, float* c,
                                             int c_stride) {
  int column = 0;
  for (; column + kTileVectors * kLanes <= columns; column += kTileVectors * kLanes)
    multiply_tile<R, kTileVectors, kAdd>(a, depth, b + column, b_stride, c + column, c_stride);
  for (; column < columns; column += kLanes) multiply_tile<R, 1, kAdd>(a, depth, b + column, b_stride, c + column, c_stride);
}

template <bool kAdd>
void multiply(int rows, const float* const* a, int depth, const float* b, int b_stride, int columns, float* c, int c_stride) {
  switch (rows) {
    case 6: return multiply_rows<6, kAdd>(a, depth, b, b_stride, columns, c, c_stride);
    case 5: return multiply_rows<5, kAdd>(a, depth, b, b_stride, columns, c, c_stride);
    case 4: return multiply_rows<4, kAdd>(a, depth, b, b_stride, columns, c, c_stride);
    case 3: return multiply_rows<3, kAdd>(a, depth, b, b_stride, columns, c, c_stride);
    case 2: return multiply_rows<2, kAdd>(a, depth, b, b_stride, columns, c, c_stride);
    default: return multiply_rows<1, kAdd>(a, depth, b, b_stride, columns, c, c_stride);
  }
}

struct CausalScratch {
  float* scores;  // [row][kKeyBlock], then chances
  float* mixed;   // [row][d]
  float *top, *total;

  size_t place(char* base, const CausalTask& t) {
    const size_t rows = static_cast<size_t>(t.count) * t.group;
    const uintptr_t start = reinterpret_cast<uintptr_t>(base);
    uintptr_t at = start;
    const auto take = [&](size_t count) {
      float* part = reinterpret_cast<float*>(at);
      at += (count + 15) / 16 * 16 * sizeof(float);
      return part;
    };
    scores = take(rows * kKeyBlock);
    mixed = take(rows * t.d);
    top = take(rows);
    total = take(rows);
    return at - start;
  }
};

size_t causal_bytes(const CausalTask& task) { return CausalScratch{}.place(nullptr, task); }

// Scores of one row against the first `seen` keys of a block become chances; from there to `width` they are zero.
LANE_INLINE void take_chances(float* scores, int seen, int width, int d, float* top, float* total, float* mixed) {
  Vec most = splat(*top);
  for (int at = 0; at < seen; at += kLanes) {
    const Vec x = load(scores + at);
    most = max(most, seen - at < kLanes ? keep_first(x, seen - at, -1e30f) : x);
  }
  const float now = largest(most);
  Vec sums = splat(0);
  for (int at = 0; at < width; at += kLanes) {
    const int left = seen - at;
    Vec p = splat(0);
    if (left > 0) {
      p = exp2_fine(sub(load(scores + at), splat(now)));
      if (left < kLanes) p = keep_first(p, left, 0.0f);
    }
    store(scores + at, p);
    sums = add(sums, p);
  }
  if (now > *top) {  // else the factor is one, and multiplying by it changes nothing
    float lanes[kLanes];
    store(lanes, exp2_fine(splat(*top - now)));
    const Vec factor = splat(lanes[0]);
    for (int i = 0; i < d; i += kLanes) store(mixed + i, mul(load(mixed + i), factor));
    *total *= lanes[0];
    *top = now;
  }
  *total += sum(sums);
}

void attend_causal(const CausalTask& t, char* scratch) {
  CausalScratch s;
  s.place(scratch, t);
  const int rows = t.count * t.group, d = t.d;
  memset(s.mixed, 0, sizeof(float) * rows * d);
  for (int r = 0; r < rows; ++r) {
    s.top[r] = -1e30f;
    s.total[r] = 0;
  }
  const auto position = [&](int r) { return t.first + r / t.group; };
  const auto query = [&](int r) { return t.rows + static_cast<size_t>(r / t.group) * t.stride + r % t.group * d; };
  for (int key = 0; key <= position(rows - 1); key += kKeyBlock) {
    const float* keys = t.keys + static_cast<size_t>(key) * d;
    const float* values = t.values + static_cast<size_t>(key) * d;
    const int begin = key > t.first ? (key - t.first) * t.group : 0;  // rows before it lie before the block
    for (int r = begin; r < rows; r += kTileRows) {
      const int tile = rows - r < kTileRows ? rows - r : kTileRows;
      const int reach = position(r + tile - 1) - key + 1, seen = reach < kKeyBlock ? reach : kKeyBlock;
      const int width = round_up(seen, kLanes);
      const float* a[kTileRows];
      for (int i = 0; i < tile; ++i) a[i] = query(r + i);
      float* scores = s.scores + static_cast<size_t>(r) * kKeyBlock;
      multiply<false>(tile, a, d, keys, kKeyBlock, width, scores, kKeyBlock);
      for (int i = 0; i < tile; ++i) {
        const int own = position(r + i) - key + 1;
        take_chances(scores + i * kKeyBlock, own < kKeyBlock ? own : kKeyBlock, width, d, s.top + r + i, s.total + r + i,
                     s.mixed + static_cast<size_t>(r + i) * d);
      }
    }
    for (int r = begin; r < rows; r += kTileRows) {
      const int tile = rows - r < kTileRows ? rows - r : kTileRows;
      const int reach = position(r + tile - 1) - key + 1;
      const float* a[kTileRows];
      for (int i = 0; i < tile; ++i) a[i] = s.scores + static_cast<size_t>(r + i) * kKeyBlock;
      multiply<true>(tile, a, reach < kKeyBlock ? reach : kKeyBlock, values, d, d, s.mixed + static_cast<size_t>(r) * d, d);
    }
  }
  for (int r = 0; r < rows; ++r) {
    const Vec inverse = splat(1.0f / s.total[r]);
    float* to = query(r);
    for (int i = 0; i < d; i += kLanes) store(to + i, mul(load(s.mixed + static_cast<size_t>(r) * d + i), inverse));
  }
}

constexpr DecoderKernels decoder_kernels{take_outliers, add_outliers, rms_norm, rotate_head, swiglu, attend_causal, causal_bytes};

}  // namespace
}  // namespace embedserve
