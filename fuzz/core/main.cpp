// Runs a target without libFuzzer: on files (to look at one again), or for some seconds on random bytes from a seed
// that is printed.
//
//     target --seconds 20 [--seed 7]
//     target FILE...
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int count, char** arguments) {
  double seconds = 0;
  unsigned seed = std::random_device{}();
  for (int i = 1; i < count; ++i) {
    if (!std::strcmp(arguments[i], "--seconds") && i + 1 < count) seconds = std::atof(arguments[++i]);
    else if (!std::strcmp(arguments[i], "--seed") && i + 1 < count) seed = static_cast<unsigned>(std::atoll(arguments[++i]));
    else {
      std::ifstream file(arguments[i], std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    }
  }
  if (seconds <= 0) return 0;
  std::printf("seed %u\n", seed);
  std::fflush(stdout);
  std::mt19937 random(seed);
  long runs = 0;
  std::vector<uint8_t> bytes;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (; std::chrono::steady_clock::now() < end; ++runs) {
    bytes.resize(random() % 8 ? random() % 300 : random() % 4000);
    // Half of them small: sizes and choices come from the low values.
    const unsigned top = random() % 2 ? 256 : 8;
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() % top);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%ld runs\n", runs);
}
