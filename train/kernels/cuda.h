// One accelerator as the kernels see it: a stream, the libraries' handles, scratch memory. Every
// operation of ops_cuda.h takes it first and only enqueues; finish() waits. Not thread-safe: one
// thread drives it, but abort() of a communicator and the abort word come from others.
//
// Errors: an operation that could not be enqueued is remembered with its name, later ones do nothing
// harmful, and check() or finish() returns the first: kDeviceFailed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"

namespace holdfast::train::kernels {

class Cuda {
 public:
  // Device `ordinal` of this process. kDeviceMissing: no driver, no such device, or a library
  // (cuBLAS, cuDNN) that is not there, named.
  static Result<std::unique_ptr<Cuda>> open(uint32_t ordinal);
  // How many there are; kDeviceMissing when there is none.
  static Result<uint32_t> count();
  ~Cuda();
  Cuda(const Cuda&) = delete;
  Cuda& operator=(const Cuda&) = delete;

  void use();        // makes it the calling thread's current device
  Status check();    // the first error so far; does not wait
  Status finish();   // waits for everything enqueued, then as check()
  Status probe();    // has the device do something and waits for it, then as check()
  // Asked by every finish() once all is done: its error is finish()'s, and of several that of one that was
  // not merely aborted, or of a failed device. For those who can end what the device waits for, communicators; called on the thread
  // that drives the device. {}: this owner is not asked any more.
  void on_finish(const void* owner, std::function<Status()> verdict);

  // Mapped host memory that update kernels read: not zero, and they change nothing any more. Each bit is
  // set and cleared by one owner alone: kViewEnded by AbortWord (train/step/trainer.h), which clears it
  // before the next view; kExchangeBroken by the communicator that broke off (train/comm/nccl_payload.h),
  // which clears it when it is destroyed and nothing of its view is queued any more.
  static constexpr uint32_t kViewEnded = 1, kExchangeBroken = 2;
  std::atomic<uint32_t>& abort_word();

  // From now on the device copies from and to this host memory by itself, until it is destroyed; the
  // memory must outlive it. It is the arena, all of it: kDeviceMemory when there is too little memory
  // that can be pinned, kDeviceFailed when it cannot be for another reason; both name the bytes. Once.
  Status register_host(void* at, size_t bytes);

  const std::string& name() const;  // "NVIDIA H100 80GB HBM3"
  bool is_hopper() const;  // compute capability 9.0

  // For *_cuda.cu only.
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  explicit Cuda(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace holdfast::train::kernels
