// Any vocabulary and any bytes: refused, or ids of that vocabulary in the room that the contract gives.
#include <memory>

#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const int pieces = input.number(0, 40);
  std::string blob;
  std::vector<uint32_t> offsets{0};
  std::vector<float> scores;
  const bool damaged = input.chance(8);
  for (int i = 0; i < pieces; ++i) {
    std::string piece = input.chance(3) ? "\xe2\x96\x81" : "";
    piece += input.text(input.chance(10) ? 40 : 4);
    blob += piece;
    offsets.push_back(static_cast<uint32_t>(blob.size()));
    scores.push_back(damaged ? input.value() : -1.0f - static_cast<float>(input.byte()) / 16);
  }
  if (damaged && pieces) offsets[input.number(0, pieces - 1)] = static_cast<uint32_t>(input.number(0, 65535));
  // Copies of exactly the size that the contract names, so that a look past the end is seen.
  const std::vector<char> exact(blob.begin(), blob.end());
  bool sound = true;
  for (int i = 0; i < pieces; ++i) sound = sound && offsets[i] <= offsets[i + 1] && offsets[i + 1] <= blob.size();
  void* unigram = nullptr;
  if (sound || offsets.back() == blob.size())
    unigram = embedserve_unigram_create(exact.data(), offsets.data(), scores.data(), pieces, input.number(-1, 40), -30.0);
  if (!unigram) return 0;

  const int texts = input.number(0, 4);
  std::string all;
  std::vector<size_t> places{0};
  for (int i = 0; i < texts; ++i) {
    all += input.chance(4) ? std::string(input.number(0, 3000), static_cast<char>(input.byte())) : input.text(200);
    places.push_back(all.size());
  }
  const std::vector<char> text(all.begin(), all.end());
  std::vector<int32_t> ids(text.size() + texts), again(text.size() + texts);
  std::vector<int32_t> counts(texts), counts_again(texts);
  REQUIRE(!embedserve_unigram_encode(unigram, text.data(), places.data(), texts, ids.data(), counts.data()));
  REQUIRE(!embedserve_unigram_encode(unigram, text.data(), places.data(), texts, again.data(), counts_again.data()));
  REQUIRE(ids == again && counts == counts_again);
  for (int i = 0; i < texts; ++i) {
    const size_t bytes = places[i + 1] - places[i];
    REQUIRE(counts[i] >= 0 && static_cast<size_t>(counts[i]) <= bytes + 1);
    int32_t alone = 0;
    std::vector<int32_t> own(bytes + 1);
    const size_t place[2] = {0, bytes};
    REQUIRE(!embedserve_unigram_encode(unigram, text.data() + places[i], place, 1, own.data(), &alone));
    REQUIRE(alone == counts[i]);
  }
  embedserve_unigram_destroy(unigram);
  return 0;
}
