// Holds every kernel of one instruction set against plain arithmetic, and the walk against itself in other batches
// and teams. For machines that Python cannot reach: test_neon.py builds it for AArch64 and runs it under qemu.
//
//     check_kernels neon     prints a line a check; ends with 1 if one of them failed
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "model.h"

using namespace embedserve;

extern "C" {
void embedserve_kernel_layer_norm(const char*, const float*, const float*, const float*, int, float, float*);
void embedserve_kernel_embed(const char*, const uint8_t*, const float*, const float*, int, float*);
void embedserve_kernel_attention(const char*, const float*, int, int, int, float*);
void embedserve_kernel_gemm(const char*, const uint8_t*, const RowScale*, int, const float*, int, int, const float*, int,
                            const float*, float*, int);
}

namespace {

const char* isa;
int failures = 0;
std::mt19937 generator(7);
using Floats = std::vector<float>;

Floats normal(size_t count, float scale = 1, float mean = 0) {
  std::normal_distribution<float> distribution(mean, scale);
  Floats values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

void report(const std::string& name, double error, double limit) {
  const bool good = error <= limit;  // not so for a NaN
  std::printf("%s %s: error %.2g, allowed %.2g\n", good ? "ok" : "FAILED", name.c_str(), error, limit);
  failures += !good;
}

double gelu(double x) { return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0))); }

void check_quantise(int k) {
  const Kernels& kernels = *find_kernels(isa);
  const Floats x = normal(k);
  std::vector<uint8_t> bytes(k);
  const RowScale scale = kernels.quantise(x.data(), k, bytes.data());
  // Some dot instructions take signed bytes: their zero point has 128 taken away.
  const float zero = scale.zero + (std::strcmp(kernels.name, "neon") ? 0.0f : 128.0f);
  double error = 0;
  for (int i = 0; i < k; ++i) error = std::fmax(error, std::fabs((bytes[i] - zero) * scale.scale - x[i]));
  report("quantise " + std::to_string(k), error, scale.scale * 0.501);
}

void check_layer_norm(int n) {
  const Floats x = normal(n, 3, 1), gain = normal(n), bias = normal(n);
  Floats out(n);
  embedserve_kernel_layer_norm(isa, x.data(), gain.data(), bias.data(), n, 1e-5f, out.data());
  double mean = 0, square = 0, error = 0;
  for (float value : x) mean += value / n;
  for (float value : x) square += (value - mean) * (value - mean) / n;
  for (int i = 0; i < n; ++i)
    error = std::fmax(error, std::fabs((x[i] - mean) / std::sqrt(square + 1e-5) * gain[i] + bias[i] - out[i]));
  report("layer_norm " + std::to_string(n), error, 2e-5);
}

void check_embed() {
  const int n = 64;
  const Floats position = normal(n), type = normal(n);
  const uint16_t halves[2] = {0x3800, 0x9400};  // 0.5 and -2^-10
  const double scales[2] = {0.5, -0.0009765625};
  uint8_t blocks[36];
  for (int block = 0; block < 2; ++block) {
    std::memcpy(blocks + 18 * block, &halves[block], 2);
    for (int j = 0; j < 16; ++j) blocks[18 * block + 2 + j] = static_cast<uint8_t>(generator());
  }
  Floats out(n);
  embedserve_kernel_embed(isa, blocks, position.data(), type.data(), n, out.data());
  double error = 0;
  for (int i = 0; i < n; ++i) {
    const uint8_t byte = blocks[18 * (i / 32) + 2 + i % 16];
    const int nibble = i % 32 < 16 ? byte & 15 : byte >> 4;
    error = std::fmax(error, std::fabs((nibble - 8) * scales[i / 32] + position[i] + type[i] - out[i]));
  }
  report("embed", error, 1e-6);
}

void check_gemm(int rows, int n, int k, int epilogue) {
  const Kernels& kernels = *find_kernels(isa);
  const int width = round_up(n, kPanel), shift = std::strcmp(kernels.name, "neon") ? 0 : 128;
  const Floats x = normal(static_cast<size_t>(rows) * k), w = normal(static_cast<size_t>(n) * k, 1 / std::sqrt(float(k)));
  const Floats bias = normal(n), residual = normal(static_cast<size_t>(rows) * width);
  Array<uint8_t> bytes(x.size());
  std::vector<RowScale> scales(rows);
  for (int row = 0; row < rows; ++row) scales[row] = kernels.quantise(&x[row * k], k, &bytes[row * k]);
  Floats out(residual.size());
  embedserve_kernel_gemm(isa, bytes.data(), scales.data(), rows, w.data(), n, k, bias.data(), epilogue, residual.data(),
                         out.data(), 1);
  double error = 0;
  for (int column = 0; column < n; ++column) {
    float most = 1e-12f;
    for (int i = 0; i < k; ++i) most = std::fmax(most, std::fabs(w[column * k + i]));
    for (int row = 0; row < rows; ++row) {
      double sum = 0;
      for (int i = 0; i < k; ++i)
        sum += (bytes[row * k + i] - scales[row].zero - shift) * std::nearbyint(w[column * k + i] * (127.0f / most));
      double value = sum * scales[row].scale * most / 127 + bias[column];
      const size_t at = static_cast<size_t>(row) * width + column;
      if (epilogue == 1) value = gelu(value);
      if (epilogue == 2) value += residual[at];
      error = std::fmax(error, std::fabs(value - out[at]));
    }
  }
  report("gemm " + std::to_string(rows) + "x" + std::to_string(n) + "x" + std::to_string(k) + " " + std::to_string(epilogue),
         error, 2e-3);
}

void check_attention(int length, int d, int heads) {
  const int hidden = d * heads;
  const Floats qkv = normal(static_cast<size_t>(length) * 3 * hidden);
  Floats out(static_cast<size_t>(length) * hidden);
  embedserve_kernel_attention(isa, qkv.data(), length, hidden, heads, out.data());
  double square = 0;
  for (int head = 0; head < heads; ++head)
    for (int i = 0; i < length; ++i) {
      const auto at = [&](int row, int part, int c) { return double(qkv[(row * 3 + part) * hidden + head * d + c]); };
      std::vector<double> chances(length), expected(d);
      double sum = 0;
      for (int j = 0; j < length; ++j) {
        double score = 0;
        for (int c = 0; c < d; ++c) score += at(i, 0, c) * at(j, 1, c);
        sum += chances[j] = std::exp(score / std::sqrt(double(d)));
      }
      for (int c = 0; c < d; ++c) {
        for (int j = 0; j < length; ++j) expected[c] += chances[j] / sum * at(j, 2, c);
        square += std::pow(out[i * hidden + head * d + c] - expected[c], 2);
      }
    }
  report("attention " + std::to_string(length) + " of " + std::to_string(heads) + "x" + std::to_string(d),
         std::sqrt(square / out.size()), 0.01);
}

// A small network: each vector alone and with one thread against all together in teams of one to three.
void check_walk() {
  const Shape shape{96, 2, 3, 160, 80, 50, 1e-5f};
  std::vector<Floats> kept;
  kept.reserve(40);
  std::vector<std::pair<std::string, Tensor>> tensors;
  const auto add = [&](const std::string& name, int rows, int columns, float scale, float mean = 0) {
    kept.push_back(normal(static_cast<size_t>(rows) * columns, scale, mean));
    tensors.push_back({name, Tensor{kept.back().data(), nullptr, rows, columns}});
  };
  const int h = shape.hidden, f = shape.ffn;
  add("emb.word", shape.vocabulary, h, 1);
  add("emb.pos", shape.positions, h, 1);
  add("emb.type", 1, h, 1);
  add("emb.ln.w", 1, h, 0.1f, 1);
  add("emb.ln.b", 1, h, 0.1f);
  for (int layer = 0; layer < shape.layers; ++layer) {
    const std::string l = "l" + std::to_string(layer) + ".";
    for (const char* part : {"q", "k", "v", "ao", "fi", "fo"}) {
      const int n = part == std::string("fi") ? f : h, k = part == std::string("fo") ? f : h;
      add(l + part + ".w", n, k, 1 / std::sqrt(float(k)));
      add(l + part + ".b", 1, n, 0.1f);
    }
    for (const char* part : {"aln", "oln"}) {
      add(l + part + ".w", 1, h, 0.1f, 1);
      add(l + part + ".b", 1, h, 0.1f);
    }
  }
  const std::vector<int> lengths{1, 80, 7, 33, 2, 64, 17};
  std::vector<int32_t> offsets{0}, ids;
  for (int length : lengths) offsets.push_back(offsets.back() + length);
  for (int i = 0; i < offsets.back(); ++i) ids.push_back(static_cast<int32_t>(generator() % shape.vocabulary));
  const Floats pooling(ids.size(), 1.0f);
  const int sequences = static_cast<int>(lengths.size());
  const auto open = [&](const char* name, int threads) {
    Model* model = new Model(shape, *find_kernels(name), threads);
    for (const auto& [tensor, values] : tensors) model->weights().set(tensor, values);
    model->pack();
    return std::unique_ptr<Model>(model);
  };
  Floats alone(static_cast<size_t>(sequences) * h), plain(alone.size());
  const auto one = open(isa, 1);
  for (int i = 0; i < sequences; ++i) one->encode(Batch{ids.data(), pooling.data(), &offsets[i], 1, &alone[i * h]});
  for (int threads : {1, 2, 3}) {
    Floats together(alone.size());
    open(isa, threads)->encode(Batch{ids.data(), pooling.data(), offsets.data(), sequences, together.data()});
    report("bit-equal in a batch with " + std::to_string(threads) + " threads",
           std::memcmp(alone.data(), together.data(), alone.size() * sizeof(float)) != 0, 0);
  }
  open("scalar", 1)->encode(Batch{ids.data(), pooling.data(), offsets.data(), sequences, plain.data()});
  double worst = 1;
  for (int i = 0; i < sequences; ++i) {
    double product = 0, a = 0, b = 0;
    for (int j = i * h; j < (i + 1) * h; ++j) {
      product += double(alone[j]) * plain[j];
      a += double(alone[j]) * alone[j];
      b += double(plain[j]) * plain[j];
    }
    worst = std::fmin(worst, product / std::sqrt(a * b));
  }
  report("the scalar kernels' vectors, 1 - cosine", 1 - worst, 5e-4);
}

}  // namespace

int main(int count, char** arguments) {
  isa = count > 1 ? arguments[1] : "auto";
  if (!find_kernels(isa)) return std::printf("this CPU has no %s\n", isa), 2;
  for (int k : {32, 96, 384, 416}) check_quantise(k);
  for (int n : {32, 96, 384}) check_layer_norm(n);
  check_embed();
  for (int epilogue : {0, 1, 2})
    for (int rows : {1, 2, 3, 5, 7, 8, 13}) check_gemm(rows, rows % 2 ? 96 : 64, rows % 3 ? 96 : 32, epilogue);
  for (int length : {1, 2, 5, 7, 16, 33, 130})
    for (int d : {16, 32, 48, 64}) check_attention(length, d, d == 32 ? 3 : 1);
  check_walk();
  return failures ? 1 : 0;
}
