// The linear layers: u8 activations x s8 weights in 32-bit integer sums, scaled in the epilogue.
//
// A tile of kTileRows x (kTileVectors * kSumColumns) sums lives in registers. Per step of four inputs it loads
// kTileVectors weight vectors, broadcasts four activations per row and issues rows * vectors dot instructions:
// on AVX-512, 24 dots for 10 loads, so the two multiply ports stay full. The integer sums are exact, hence
// independent of the tile a row falls into; the epilogue is the same arithmetic in every tile.
//
// Order: panel by panel (64 columns; 24 KB at 384 inputs, resident in the first-level cache), all rows of the
// block under it. While a panel is in use the next one is prefetched, a cache line per step, because the
// weights of a whole layer never fit the second-level cache.

namespace embedserve {
namespace {

static_assert(kTileVectors % kSumsPerVec == 0, "a tile is whole vectors");

constexpr int kUnroll = 2;  // steps a loop, so that counting takes no turns from the dot instructions

template <int R, Epilogue E>
__attribute__((noinline)) void tile(const uint8_t* a, const RowScale* rows, const Linear& linear, int column,
                                    const float* residual, float* out, int stride, const char* next) {
  const int k = linear.k;
  const int8_t* w = linear.panel(column / kPanel) + column % kPanel * kDepth;
  Sums c[R][kTileVectors];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kTileVectors; ++j) c[i][j] = no_sums();
  for (int d = 0; d < k; d += kUnroll * kDepth, next += kUnroll * 64) {
#pragma GCC unroll 8
    for (int line = 0; line < kUnroll; ++line) __builtin_prefetch(next + line * 64, 0, 2);
#pragma GCC unroll 8
    for (int step = 0; step < kUnroll; ++step, w += kDepth * kPanel) {
      Weights b[kTileVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kTileVectors; ++j) b[j] = load_weights(w + j * kSumColumns * kDepth);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const Four x = broadcast_four(a + static_cast<size_t>(i) * k + d + step * kDepth);
#pragma GCC unroll 8
        for (int j = 0; j < kTileVectors; ++j) dot(c[i][j], x, b[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kTileVectors / kSumsPerVec; ++j) {
    const int at_column = column + j * kLanes;
    const Vec scale = load(linear.scale + at_column), bias = load(linear.bias + at_column);
    const Vec minus_sum = sub(splat(0), load(linear.column_sum + at_column));
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const size_t at = static_cast<size_t>(i) * stride + j * kLanes;
      const Vec products = fma(splat(rows[i].zero), minus_sum, total(&c[i][j * kSumsPerVec]));
      Vec v = fma(mul(products, splat(rows[i].scale)), scale, bias);
      if (E == Epilogue::kGelu) v = gelu(v);
      if (E == Epilogue::kResidual) v = add(v, load(residual + at));
      store(out + at, v);
    }
  }
}

// A tile of `rows` rows, at most R.
template <int R, Epilogue E>
LANE_INLINE void tiles(int rows, const Activations& a, const Linear& w, int row, int column, const float* residual,
                       float* out, int stride, const char* next) {
  if constexpr (R > 1)
    if (rows < R) return tiles<R - 1, E>(rows, a, w, row, column, residual, out, stride, next);
  const size_t at = static_cast<size_t>(row) * stride + column;
  tile<R, E>(a.values + static_cast<size_t>(row) * w.k, a.scales + row, w, column, residual ? residual + at : nullptr,
             out + at, stride, next);
}

template <Epilogue E>
void gemm_with(const Activations& a, const Linear& w, const float* residual, float* out, int stride, int panel_begin,
               int panel_end) {
  constexpr int width = kTileVectors * kSumColumns;
  for (int panel = panel_begin; panel < panel_end; ++panel)
    for (int column = panel * kPanel; column < (panel + 1) * kPanel; column += width) {
      // A step fetches a line of the next panel, so four tiles of rows bring in all of it.
      const char* next = reinterpret_cast<const char*>(w.panel(panel + 1));
      for (int row = 0, taken; row < a.rows; row += taken, next += static_cast<size_t>(16) * w.k) {
        // One or two rows alone would wait for their own sums: they share the last two tiles evenly.
        const int left = a.rows - row;
        taken = left == kTileRows || left > kTileRows + 2 ? kTileRows : left > kTileRows ? (left + 1) / 2 : left;
        tiles<kTileRows, E>(taken, a, w, row, column, residual, out, stride, next);
      }
    }
}

void gemm(const Activations& a, const Linear& w, Epilogue epilogue, const float* residual, float* out, int stride,
          int panel_begin, int panel_end) {
  switch (epilogue) {
    case Epilogue::kStore: return gemm_with<Epilogue::kStore>(a, w, nullptr, out, stride, panel_begin, panel_end);
    case Epilogue::kGelu: return gemm_with<Epilogue::kGelu>(a, w, nullptr, out, stride, panel_begin, panel_end);
    case Epilogue::kResidual: return gemm_with<Epilogue::kResidual>(a, w, residual, out, stride, panel_begin, panel_end);
  }
}

}  // namespace
}  // namespace embedserve
