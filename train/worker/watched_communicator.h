// A communicator that tells the pulse while it waits for others, so that the one who keeps them
// waiting is the one whose counter froze.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "train/comm/communicator.h"
#include "train/worker/pulse.h"

namespace holdfast::train {

// Base: Communicator, or ViewCommunicator with more to it.
template <class Base>
class WatchedCollectives : public Base {
 public:
  WatchedCollectives(std::unique_ptr<Base> comm, Pulse& pulse)
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

 protected:
  const std::unique_ptr<Base> comm_;
  Pulse& pulse_;
};

class WatchedCommunicator final : public WatchedCollectives<ViewCommunicator> {
 public:
  using WatchedCollectives::WatchedCollectives;

  std::unique_ptr<Communicator> group(std::vector<uint32_t> ranks) override {
    return std::make_unique<WatchedCollectives<Communicator>>(comm_->group(std::move(ranks)),
                                                              pulse_);
  }
  // Not watched: other threads wait on lines.
  std::unique_ptr<HandOverLine> line(uint32_t number, int64_t timeout_ms) override {
    return comm_->line(number, timeout_ms);
  }
  Status send(uint32_t to, std::vector<std::byte> bytes) override {
    return comm_->send(to, std::move(bytes));
  }
  Status receive(uint32_t from, std::span<std::byte> into) override {
    const Pulse::Waiting waiting(pulse_);
    return comm_->receive(from, into);
  }
  Status flush() override {
    const Pulse::Waiting waiting(pulse_);
    return comm_->flush();
  }
  Status flush_older() override {
    const Pulse::Waiting waiting(pulse_);
    return comm_->flush_older();
  }
};

}  // namespace holdfast::train
