// XLM-RoBERTa's Unigram tokenizer on normalised text: the most probable segmentation of each word (Viterbi).
//
// Words are the runs between spaces. The vocabulary is a trie in one array, children side by side in byte order,
// built breadth first from the sorted pieces: 250,000 pieces take a few megabytes and about a tenth of a second.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace embedserve {

class Unigram {
 public:
  // Pieces with score 0 are control symbols and never match text. `unknown_score` is what a character that is no
  // piece costs. Piece i is blob[offsets[i] .. offsets[i + 1]]. Throws std::invalid_argument where that, or a score, is
  // impossible.
  Unigram(const char* blob, const uint32_t* offsets, const float* scores, int pieces, int unknown_id, double unknown_score);
  // Ids of UTF-8 text; at most one per character and one per word. Returns how many.
  size_t encode(const char* text, size_t bytes, int32_t* ids) const;
  size_t bytes() const { return labels_.size() + first_child_.size() * sizeof(int32_t) + piece_.size() * sizeof(int32_t); }

 private:
  struct Lattice;
  int child(int node, uint8_t byte) const;
  size_t encode_word(const char* word, size_t bytes, Lattice& lattice, int32_t* ids) const;

  std::vector<uint8_t> labels_;       // of each node: the byte that leads to it
  std::vector<int32_t> first_child_;  // of each node; its last child ends where the next node's children begin
  std::vector<int32_t> piece_;        // of each node: the piece that ends here, or -1
  std::vector<double> scores_;
  int unknown_id_;
  double unknown_score_;
  int word_mark_;  // the node of U+2581
};

}  // namespace embedserve
