#include "unigram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace embedserve {
namespace {

constexpr char kWordMark[] = "\xe2\x96\x81";  // U+2581
constexpr size_t kMarkBytes = 3;

size_t character_bytes(uint8_t lead) { return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4; }

}  // namespace

Unigram::Unigram(const char* blob, const uint32_t* offsets, const float* scores, int pieces, int unknown_id,
                 double unknown_score)
    : unknown_id_(unknown_id), unknown_score_(unknown_score) {
  if (pieces < 1) throw std::invalid_argument("a vocabulary has pieces");
  scores_.assign(scores, scores + pieces);
  for (int i = 0; i < pieces; ++i)  // a sum that is no number would leave a word without a way through it
    if (offsets[i] > offsets[i + 1] || !std::isfinite(scores[i]))
      throw std::invalid_argument("piece " + std::to_string(i) + " of the vocabulary is damaged");
  if (!std::isfinite(unknown_score)) throw std::invalid_argument("the score of unknown characters is not finite");
  struct Entry {
    uint64_t head;  // the first eight bytes, so that most comparisons need no look at the text
    int32_t id;
  };
  std::vector<Entry> sorted;
  sorted.reserve(pieces);
  for (int i = 0; i < pieces; ++i) {
    const size_t size = offsets[i + 1] - offsets[i];
    if (scores[i] == 0.0f || !size) continue;
    uint64_t head = 0;
    for (size_t j = 0; j < 8; ++j) head = head << 8 | (j < size ? static_cast<uint8_t>(blob[offsets[i] + j]) : 0);
    sorted.push_back({head, i});
  }
  std::sort(sorted.begin(), sorted.end(), [&](const Entry& a, const Entry& b) {
    if (a.head != b.head) return a.head < b.head;
    const size_t x = offsets[a.id + 1] - offsets[a.id], y = offsets[b.id + 1] - offsets[b.id];
    const int order = memcmp(blob + offsets[a.id], blob + offsets[b.id], std::min(x, y));
    return order ? order < 0 : x != y ? x < y : a.id < b.id;
  });

  // A node is a range of sorted pieces that share their first `depth` bytes; nodes of one depth are built in order.
  struct Range {
    int begin, end;
  };
  std::vector<Range> level{{0, static_cast<int>(sorted.size())}}, next;
  labels_.push_back(0);
  for (size_t depth = 0; !level.empty(); ++depth, level.swap(next)) {
    next.clear();
    const int after = static_cast<int>(labels_.size());  // where the children of this level start
    for (const Range& range : level) {
      int32_t piece = -1;
      int at = range.begin;
      for (; at < range.end && offsets[sorted[at].id + 1] - offsets[sorted[at].id] == depth; ++at) piece = sorted[at].id;
      piece_.push_back(piece);
      first_child_.push_back(after + static_cast<int>(next.size()));
      while (at < range.end) {
        const char byte = blob[offsets[sorted[at].id] + depth];
        const int begin = at;
        while (at < range.end && blob[offsets[sorted[at].id] + depth] == byte) ++at;
        labels_.push_back(static_cast<uint8_t>(byte));
        next.push_back({begin, at});
      }
    }
  }
  first_child_.push_back(static_cast<int>(labels_.size()));
  word_mark_ = 0;
  for (size_t i = 0; i < kMarkBytes && word_mark_ >= 0; ++i) word_mark_ = child(word_mark_, static_cast<uint8_t>(kWordMark[i]));
}

int Unigram::child(int node, uint8_t byte) const {
  const int begin = first_child_[node], end = first_child_[node + 1];
  const void* found = begin < end ? memchr(labels_.data() + begin, byte, end - begin) : nullptr;
  return found ? static_cast<int>(static_cast<const uint8_t*>(found) - labels_.data()) : -1;
}

// Positions in a word, in bytes: the best score of reaching each and the piece that does.
struct Unigram::Lattice {
  std::vector<double> best;
  std::vector<int32_t> from, piece;
  std::vector<char> text;
};

size_t Unigram::encode(const char* text, size_t bytes, int32_t* ids) const {
  Lattice lattice;
  size_t count = 0;
  const char* const end = text + bytes;
  while (text < end) {
    const char* space = static_cast<const char*>(memchr(text, ' ', end - text));
    if (!space) space = end;
    if (space > text) count += encode_word(text, space - text, lattice, ids + count);
    text = space + 1;
  }
  return count;
}

size_t Unigram::encode_word(const char* word, size_t bytes, Lattice& lattice, int32_t* ids) const {
  const size_t size = bytes + kMarkBytes;
  lattice.text.assign(kWordMark, kWordMark + kMarkBytes);
  lattice.text.insert(lattice.text.end(), word, word + bytes);
  lattice.best.assign(size + 1, -std::numeric_limits<double>::infinity());
  lattice.from.resize(size + 1);
  lattice.piece.resize(size + 1);
  lattice.best[0] = 0;
  const char* text = lattice.text.data();
  for (size_t start = 0; start < size;) {
    const double base = lattice.best[start];
    const size_t single = std::min(start + character_bytes(static_cast<uint8_t>(text[start])), size);
    bool known = false;
    int node = start ? 0 : word_mark_;
    const auto offer = [&](size_t end, double score, int32_t piece) {
      if (score > lattice.best[end]) {
        lattice.best[end] = score;
        lattice.from[end] = static_cast<int32_t>(start);
        lattice.piece[end] = piece;
      }
    };
    size_t end = start ? start : kMarkBytes;
    if (!start && node >= 0 && piece_[node] >= 0) {
      known = true;
      offer(end, base + scores_[piece_[node]], piece_[node]);
    }
    while (end < size && node >= 0) {
      node = child(node, static_cast<uint8_t>(text[end++]));
      if (node >= 0 && piece_[node] >= 0) {
        known = known || end == single;
        offer(end, base + scores_[piece_[node]], piece_[node]);
      }
    }
    if (!known) offer(single, base + unknown_score_, unknown_id_);
    start = single;
  }
  size_t count = 0;
  for (size_t end = size; end; end = lattice.from[end]) {
    const int32_t piece = lattice.piece[end];
    if (!(piece == unknown_id_ && count && ids[count - 1] == piece)) ids[count++] = piece;  // runs of unknowns are one
  }
  std::reverse(ids, ids + count);
  return count;
}

}  // namespace embedserve
