// One communicator of NCCL for one view, and the thread that guards it: what nccl_payload.h says of waits,
// aborts and their errors holds for every link. On the device's stream, or on one of its own beside it.
//
// ncclCommAbort sets the flag that NCCL's kernels look at before anything else, then waits for NCCL's own
// threads, one of which looks at the flag every 500 ms and stays as long as a process of this machine is
// connected to it, and frees memory, which waits for all that runs on the device. So each communicator has
// a thread for its abort, which may outlive the link, and nobody waits for it to be over but
//   exchange() and idle()  if NCCL was launching: only then might it still put something on the stream
//   connect()              what frees memory would wait for an exchange of the new view, here and at the
//                          others, and exchanges for what waits behind it
// and whoever gives up the device.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "base/teardowns.h"
#include "train/comm/nccl_cuda.h"
#include "train/comm/nccl_payload.h"
#include "train/kernels/ops_cuda.h"

namespace holdfast::train {

// To or from one peer; the other pointer is null.
struct NcclTransfer {
  uint32_t peer = 0;
  const std::byte* send = nullptr;
  std::byte* recv = nullptr;
  size_t bytes = 0;
};

struct NcclPlace {
  uint32_t rank = 0, size = 0;
  bool own_stream = false;
  int most_blocks = 0;  // that NCCL may take of the device at a time; 0: as it likes
};

class NcclLink {
 public:
  // aborts: of all communicators on this device, one after the other; outlives them.
  NcclLink(kernels::Cuda& cuda, const Nccl& nccl, Teardowns& aborts, NcclPlace place,
           NcclOptions options);
  ~NcclLink();

  // All ranks together. kCommSetup, kCommAborted; kDeviceFailed: an earlier communicator is still there.
  Status connect(const ncclUniqueId& id) EXCLUDES(mutex_);

  // Enqueues all of it as one group; the peers do the same. By one thread, whose current device is this one.
  // Waits on the host for the exchange before, never for its own. After an error the memory may be freed.
  Status exchange(std::span<const NcclTransfer> transfers) EXCLUDES(mutex_);
  // Whether it is broken, and why. finished(): all that was enqueued on the device's stream is done.
  Status verdict() EXCLUDES(mutex_);
  Status finished() EXCLUDES(mutex_);
  // Leaves the others, as often as one likes; from any thread. Its kernels end soon after.
  void abandon() EXCLUDES(mutex_);
  // Of a broken link: waits until nothing of it is on its stream and nothing can come there any more.
  // kDeviceFailed: that did not happen in setup_ms. Does nothing where the link is not broken.
  Status idle() EXCLUDES(mutex_);

  cudaStream_t stream() const { return stream_; }
  uint32_t rank() const { return place_.rank; }
  uint32_t size() const { return place_.size; }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Exchange : uint8_t { kNone, kLaunching, kLaunched };

  Status open() EXCLUDES(mutex_);
  Status wait_for_earlier();
  Error setup_error(const std::string& why) const;
  Status poll_setup(Clock::time_point begin) REQUIRES(mutex_);
  void ask() REQUIRES(mutex_);
  Status judge() REQUIRES(mutex_);
  Status judge_now() REQUIRES(mutex_);
  bool waits_for_others() REQUIRES(mutex_);
  Status break_off(ErrorCode code, std::string why) REQUIRES(mutex_);
  Error too_late(const char* what) const;
  Status launching_is_over() EXCLUDES(mutex_);
  Status enqueue(std::span<const NcclTransfer> transfers) EXCLUDES(mutex_);
  Status launch(std::span<const NcclTransfer> transfers) REQUIRES(mutex_);
  Status wait_until_launched() REQUIRES(mutex_);
  void guard() EXCLUDES(mutex_);

  kernels::Cuda& cuda_;
  const Nccl& nccl_;
  Teardowns& aborts_;
  const NcclPlace place_;
  const NcclOptions options_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t after_ = nullptr;  // behind the newest exchange; for the thread that enqueues
  // The number of the exchange that the stream has come to, and of the one that it has left: what
  // the guard looks at, who must call nothing of CUDA.
  PinnedBuffer<uint32_t> marks_{2};
  uint32_t* const entered_ = &marks_.data()[0];
  uint32_t* const left_ = &marks_.data()[1];

  std::shared_ptr<Teardown> abort_;  // of comm_; there before it is

  Mutex mutex_;  // held for short calls
  CondVar changed_;
  ncclComm_t comm_ GUARDED_BY(mutex_) = nullptr;
  ncclResult_t state_ GUARDED_BY(mutex_) = ncclSuccess;  // as NCCL told last
  std::optional<Error> failure_ GUARDED_BY(mutex_);      // the communicator is gone
  bool broke_launching_ GUARDED_BY(mutex_) = false;      // NCCL may still enqueue until its abort is over
  Exchange exchange_ GUARDED_BY(mutex_) = Exchange::kNone;
  uint32_t number_ GUARDED_BY(mutex_) = 0;  // of the newest exchange
  std::optional<Clock::time_point> waits_since_ GUARDED_BY(mutex_);
  bool ending_ GUARDED_BY(mutex_) = false;
  std::thread guarding_;
};

}  // namespace holdfast::train
