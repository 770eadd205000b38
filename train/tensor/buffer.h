// Room for one tensor: aligned for vector units, uninitialised, and kept when it is made smaller,
// so that a buffer that is used again every micro-batch is allocated once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

namespace holdfast::train {

template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  explicit Buffer(size_t elements) { resize(elements); }

  // The contents are undefined afterwards.
  void resize(size_t elements) {
    if (elements > capacity_) {
      const size_t capacity = elements + elements / 4;
      data_.reset(static_cast<T*>(::operator new(capacity * sizeof(T), kAlignment)));
      capacity_ = capacity;  // not when there was no room: what there is stays as it is
    }
    size_ = elements;
  }
  void assign(const T* from, size_t elements) {
    resize(elements);
    std::copy_n(from, elements, data());
  }
  void zero() { std::fill_n(data(), size_, T{}); }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace holdfast::train
