#include <cuda_runtime.h>

#include "train/tensor/device_buffer.h"

namespace holdfast::train::detail {

void* allocate_memory(MemoryKind kind, size_t bytes) {
  if (bytes == 0) return nullptr;
  void* data = nullptr;
  cudaError_t error = cudaSuccess;
  switch (kind) {
    case MemoryKind::kDevice:
      error = cudaMalloc(&data, bytes);
      break;
    case MemoryKind::kPinned:
      error = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
      break;
  }
  if (error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // reported by the exception
    throw OutOfDeviceMemory(bytes);
  }
  return data;
}

void free_memory(MemoryKind kind, void* data) noexcept {
  if (data == nullptr) return;
  // An error here is one of an earlier kernel; the next launch meets it again.
  switch (kind) {
    case MemoryKind::kDevice:
      static_cast<void>(cudaFree(data));
      break;
    case MemoryKind::kPinned:
      static_cast<void>(cudaFreeHost(data));
      break;
  }
}

}  // namespace holdfast::train::detail
