// Aligned memory that is zeroed and, where the system offers it, backed by huge pages: the packed weights are
// streamed once per block of rows, and 4 KB pages would cost a table walk every 64 cache lines.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace embedserve {

template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t count) { resize(count); }
  Array(Array&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr; other.count_ = 0; }
  Array& operator=(Array&& other) noexcept {
    if (this != &other) { free(data_); data_ = other.data_; count_ = other.count_; other.data_ = nullptr; other.count_ = 0; }
    return *this;
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { free(data_); }

  // Contents are zero after growing and lost; never shrinks.
  void resize(size_t count) {
    if (count <= count_) return;
    free(data_);
    data_ = nullptr;
    count_ = 0;
    constexpr size_t huge = size_t{2} << 20;
    if (count > (SIZE_MAX >> 1) / sizeof(T)) throw std::bad_alloc();
    const size_t bytes = count * sizeof(T) + 64;  // vector loads may read past the last element
    const size_t align = bytes >= huge ? huge : 64;
    const size_t padded = (bytes + align - 1) / align * align;
    void* memory = nullptr;
    if (posix_memalign(&memory, align, padded)) throw std::bad_alloc();
#if defined(__linux__)
    if (bytes >= huge) madvise(memory, padded, MADV_HUGEPAGE);
#endif
    memset(memory, 0, padded);
    data_ = static_cast<T*>(memory);
    count_ = count;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

}  // namespace embedserve
