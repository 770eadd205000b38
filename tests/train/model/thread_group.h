// The smallest stage group: threads that copy from each other between two barriers.
#pragma once

#include <barrier>
#include <cstring>
#include <numeric>
#include <vector>

#include "train/comm/communicator.h"

namespace holdfast::train {

class ThreadGroup {
 public:
  explicit ThreadGroup(uint32_t size) : posted_(size), barrier_(size) {}

  class Rank final : public Communicator {
   public:
    Rank(ThreadGroup& group, uint32_t rank) : group_(group), rank_(rank) {}
    uint32_t rank() const override { return rank_; }
    uint32_t size() const override { return static_cast<uint32_t>(group_.posted_.size()); }

    Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                      std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
      group_.posted_[rank_] = {send.data(), send_bytes};
      group_.barrier_.arrive_and_wait();
      size_t at = 0;
      for (uint32_t r = 0; r < size(); ++r) {
        const Posted& from = group_.posted_[r];
        CHECK(from.bytes[rank_] == recv_bytes[r] && at + recv_bytes[r] <= recv.size());
        const size_t skip =
            std::accumulate(from.bytes.begin(), from.bytes.begin() + rank_, size_t{0});
        if (recv_bytes[r] > 0) std::memcpy(recv.data() + at, from.data + skip, recv_bytes[r]);
        at += recv_bytes[r];
      }
      group_.barrier_.arrive_and_wait();
      return {};
    }
    Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                      std::span<const size_t> recv_bytes) override {
      std::vector<std::byte> repeated;
      for (uint32_t r = 0; r < size(); ++r)
        repeated.insert(repeated.end(), send.begin(), send.end());
      const std::vector<size_t> send_bytes(size(), send.size());
      return all_to_all(repeated, send_bytes, recv, recv_bytes);
    }
    void abort() override {}

   private:
    ThreadGroup& group_;
    const uint32_t rank_;
  };

 private:
  struct Posted {
    const std::byte* data = nullptr;
    std::span<const size_t> bytes;
  };
  std::vector<Posted> posted_;
  std::barrier<> barrier_;
};

}  // namespace holdfast::train
