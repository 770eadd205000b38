// What the *_cuda.cu files see of an accelerator: stream, scratch, the libraries. An operation
// enqueues on `stream` and calls launched() with its name after each launch; it never waits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "train/kernels/cuda.h"
#include "train/tensor/bf16.h"
#include "train/tensor/device_buffer.h"

struct cublasLtContext;
struct cudnnContext;

namespace holdfast::train::kernels {

struct CublasLt;         // cublaslt_cuda.h
struct GemmPlans;        // gemm_cuda.cu
struct AttentionGraphs;  // attention_cuda.cpp

struct Cuda::Impl {
  Impl() = default;
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  int ordinal = 0;
  cudaStream_t stream = nullptr;
  int multiprocessors = 0;
  int capability = 0;  // 90 for 9.0
  std::string name;
  std::vector<std::pair<const void*, std::function<Status()>>> verdicts;  // of finish(), by owner

  // After a launch or an asynchronous call: remembers the first error, with the operation's name.
  void launched(const char* operation);
  // The same for an error that did not come from the runtime.
  void failed(const char* operation, const std::string& why);
  Status status() const;

  // Device memory for one operation, 256-byte aligned, valid until the next call of scratch().
  // Grows by waiting for the stream first, so that a step that has run once neither allocates nor
  // waits. Throws OutOfDeviceMemory.
  void* scratch(size_t bytes);
  template <class T>
  T* scratch_of(size_t elements) {
    return static_cast<T*>(scratch(elements * sizeof(T)));
  }

  // A copy of a small table for the operation that is enqueued next; valid until the next table. Waits
  // only where the copy of the one before is still under way.
  const void* table(const void* host, size_t bytes);

  PinnedBuffer<uint32_t> first_rows;  // of experts, on the host: where each is a product of its own

  void* registered = nullptr;  // see register_host
  // One word that host and device see at one address.
  PinnedBuffer<uint32_t> abort_room;
  std::atomic<uint32_t>* abort_word = nullptr;

  static constexpr size_t kProductWorkspace = size_t{64} << 20;
  const CublasLt* blas = nullptr;
  cublasLtContext* blas_handle = nullptr;
  DeviceBuffer<unsigned char> product_workspace;  // of the products only
  cudnnContext* dnn_handle = nullptr;
  // Complete only in the file that fills them.
  std::shared_ptr<GemmPlans> gemm_plans;
  std::shared_ptr<AttentionGraphs> attention_graphs;

 private:
  DeviceBuffer<unsigned char> scratch_;
  PinnedBuffer<unsigned char> host_table_;
  DeviceBuffer<unsigned char> device_table_;
  cudaEvent_t table_copied_ = nullptr;
  std::string error_;
};

// Bf16 is the storage type everywhere; these are the same bits as the device's type.
inline const __nv_bfloat16* device_type(const Bf16* p) {
  return reinterpret_cast<const __nv_bfloat16*>(p);
}
inline __nv_bfloat16* device_type(Bf16* p) { return reinterpret_cast<__nv_bfloat16*>(p); }

}  // namespace holdfast::train::kernels
