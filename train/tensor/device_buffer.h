// Memory of one accelerator, and host memory that it can copy to and from by itself (pinned). Like
// Buffer, both are uninitialised and kept when they are made smaller. Growing frees and allocates, which
// waits for the device: what depends on the tokens grows by a quarter more than is asked for, so that few
// steps do it and none after a while.
//
// Allocation that fails ends in an exception of this type, which the owner of a step turns into an
// Error: running out of device memory is no programmer's error.
#pragma once

#include <cstddef>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

namespace holdfast::train {

struct OutOfDeviceMemory : std::bad_alloc {
  explicit OutOfDeviceMemory(size_t wanted)
      : bytes(wanted),
        text("the accelerator has no " + std::to_string(wanted) + " bytes left for one tensor") {}
  const char* what() const noexcept override { return text.c_str(); }
  size_t bytes;
  std::string text;
};

enum class MemoryKind : unsigned char { kDevice, kPinned };

namespace detail {
// On the calling thread's current device.
void* allocate_memory(MemoryKind kind, size_t bytes);
void free_memory(MemoryKind kind, void* data) noexcept;
}  // namespace detail

template <class T, MemoryKind kKind>
class CudaMemory {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  CudaMemory() = default;
  explicit CudaMemory(size_t elements) { resize(elements); }
  CudaMemory(CudaMemory&& other) noexcept { swap(other); }
  CudaMemory& operator=(CudaMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~CudaMemory() { detail::free_memory(kKind, data_); }

  // The contents are undefined afterwards.
  void resize(size_t elements) {
    if (elements > capacity_) {
      const bool again = data_ != nullptr;  // the first time is exactly what was reckoned with
      detail::free_memory(kKind, std::exchange(data_, nullptr));
      size_ = capacity_ = 0;
      if (again) allocate(elements + elements / 4);
      if (data_ == nullptr && !allocate(elements)) throw OutOfDeviceMemory(elements * sizeof(T));
    }
    size_ = elements;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<T> span() { return {data_, size_}; }
  std::span<const T> span() const { return {data_, size_}; }

 private:
  bool allocate(size_t elements) {
    try {
      data_ = static_cast<T*>(detail::allocate_memory(kKind, elements * sizeof(T)));
      capacity_ = elements;
    } catch (const OutOfDeviceMemory&) {
      return false;
    }
    return true;
  }
  void swap(CudaMemory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }
  T* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

template <class T>
using DeviceBuffer = CudaMemory<T, MemoryKind::kDevice>;  // not to be read by the host
template <class T>
using PinnedBuffer = CudaMemory<T, MemoryKind::kPinned>;

}  // namespace holdfast::train
