// Counts what this lane sends to others, for the step's report.
#pragma once

#include "train/comm/communicator.h"

namespace holdfast::train {

class CountingCommunicator final : public Communicator {
 public:
  explicit CountingCommunicator(Communicator& comm) : comm_(comm) {}

  uint64_t sent_bytes() const { return sent_bytes_; }

  uint32_t rank() const override { return comm_.rank(); }
  uint32_t size() const override { return comm_.size(); }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    sent_bytes_ += send.size() - send_bytes[rank()];
    return comm_.all_to_all(send, send_bytes, recv, recv_bytes);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    sent_bytes_ += send.size() * (size() - 1);
    return comm_.all_gather(send, recv, recv_bytes);
  }
  void abort() override { comm_.abort(); }

 private:
  Communicator& comm_;
  uint64_t sent_bytes_ = 0;
};

}  // namespace holdfast::train
