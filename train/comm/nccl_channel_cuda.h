// One direction between two neighbouring stages, as one member of either sees it: see nccl_hand_over.h.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "train/comm/communicator.h"
#include "train/comm/nccl_link_cuda.h"

namespace holdfast::train {

// What one stream has come to, for others and for the host.
class StreamEvent {
 public:
  StreamEvent() = default;
  StreamEvent(StreamEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  StreamEvent& operator=(StreamEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~StreamEvent();
  Status record(cudaStream_t stream);
  // Nothing is waited for where nothing was recorded.
  void hold(cudaStream_t stream) const;  // what `stream` is given from now on waits for it
  void wait() const;                     // the host does

 private:
  cudaEvent_t event_ = nullptr;
};

// The members of both stages: those that send come first in the communicator.
struct ChannelMembers {
  uint32_t first_sender = 0, senders = 0, first_receiver = 0, receivers = 0;
  uint32_t size() const { return senders + receivers; }
  uint32_t sender_rank(uint32_t member) const { return member - first_sender; }
  uint32_t receiver_rank(uint32_t member) const { return senders + member - first_receiver; }
};

// A member's end of a channel that it sends on.
class NcclSender {
 public:
  NcclSender(kernels::Cuda& cuda, const Nccl& nccl, Teardowns& aborts, ChannelMembers members,
             uint32_t self, std::unique_ptr<HandOverLine> line, const NcclOptions& options);
  ~NcclSender();
  Status connect(const ncclUniqueId& id);
  Status send(uint32_t to, const std::byte* from, size_t bytes) EXCLUDES(mutex_);
  Status flush() EXCLUDES(mutex_);
  Status flush_older() EXCLUDES(mutex_);
  Status verdict() { return link_.verdict(); }
  void abandon();
  Status idle() { return link_.idle(); }

 private:
  // What waits for its receiver, in memory of its own.
  struct Parcel {
    DeviceBuffer<std::byte> bytes;
    uint32_t to = 0;
    StreamEvent made, sent;
  };
  void carry() EXCLUDES(mutex_);
  Status wait_for(uint64_t sent) REQUIRES(mutex_);
  Status hand_on(Parcel& parcel);

  kernels::Cuda& cuda_;
  const ChannelMembers members_;
  const int64_t flush_ms_;
  NcclLink link_;
  const std::unique_ptr<HandOverLine> line_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Parcel> waiting_ GUARDED_BY(mutex_);  // the first may be on its way
  uint64_t taken_ GUARDED_BY(mutex_) = 0;          // to be sent, so far
  uint64_t older_ GUARDED_BY(mutex_) = 0;          // of these, before the last flush
  std::vector<Parcel> free_ GUARDED_BY(mutex_);    // their bytes may still be leaving
  std::optional<Error> failure_ GUARDED_BY(mutex_);
  bool ending_ GUARDED_BY(mutex_) = false;
  std::thread carrier_;
};

// A member's end of a channel that it receives on.
class NcclReceiver {
 public:
  NcclReceiver(kernels::Cuda& cuda, const Nccl& nccl, Teardowns& aborts, ChannelMembers members,
               uint32_t self, std::unique_ptr<HandOverLine> line, const NcclOptions& options);
  Status connect(const ncclUniqueId& id) { return link_.connect(id); }
  Result<const std::byte*> receive(uint32_t from, size_t bytes);
  Status verdict() { return link_.verdict(); }
  void abandon();
  Status idle() { return link_.idle(); }

 private:
  struct Slot {
    DeviceBuffer<std::byte> bytes;
    StreamEvent used;  // by what the device was given until the receive after it
  };
  kernels::Cuda& cuda_;
  const ChannelMembers members_;
  NcclLink link_;
  const std::unique_ptr<HandOverLine> line_;
  std::array<Slot, 2> slots_;
  Slot* newest_ = nullptr;
  StreamEvent arrived_;
};

}  // namespace holdfast::train
