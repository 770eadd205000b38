// Moves what kernels compute between the lanes of a stage group: bytes that lie where the backend
// computes, host memory or an accelerator's. Metadata of a few bytes goes through Communicator.
#pragma once

#include <cstddef>
#include <numeric>
#include <span>

#include "base/result.h"
#include "train/comm/communicator.h"

namespace holdfast::train {

class PayloadExchange {
 public:
  virtual ~PayloadExchange() = default;
  // As Communicator::all_to_all, in order with what the device has been given to do: send is read after
  // everything enqueued before, and what is enqueued afterwards finds recv filled.
  virtual Status all_to_all(const std::byte* send, std::span<const size_t> send_bytes,
                            std::byte* recv, std::span<const size_t> recv_bytes) = 0;

  static size_t total(std::span<const size_t> counts) {
    return std::accumulate(counts.begin(), counts.end(), size_t{0});
  }
};

// For backends that compute in host memory.
class HostPayload final : public PayloadExchange {
 public:
  explicit HostPayload(Communicator& comm) : comm_(comm) {}
  Status all_to_all(const std::byte* send, std::span<const size_t> send_bytes, std::byte* recv,
                    std::span<const size_t> recv_bytes) override {
    return comm_.all_to_all({send, total(send_bytes)}, send_bytes, {recv, total(recv_bytes)},
                            recv_bytes);
  }

 private:
  Communicator& comm_;
};

}  // namespace holdfast::train
