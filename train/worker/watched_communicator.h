// A communicator that tells the pulse while it waits for others, so that the one who keeps them
// waiting is the one whose counter froze.
#pragma once

#include <memory>
#include <utility>

#include "train/comm/communicator.h"
#include "train/worker/pulse.h"

namespace holdfast::train {

class WatchedCommunicator final : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> comm, Pulse& pulse)
      : comm_(std::move(comm)), pulse_(pulse) {}

  uint32_t rank() const override { return comm_->rank(); }
  uint32_t size() const override { return comm_->size(); }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    const Pulse::Waiting waiting(pulse_);
    return comm_->all_to_all(send, send_bytes, recv, recv_bytes);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    const Pulse::Waiting waiting(pulse_);
    return comm_->all_gather(send, recv, recv_bytes);
  }
  void abort() override { comm_->abort(); }

 private:
  const std::unique_ptr<Communicator> comm_;
  Pulse& pulse_;
};

}  // namespace holdfast::train
