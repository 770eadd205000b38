// What the ranks of one connected Gloo context do together: collectives, and hand-overs from rank to rank.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "train/comm/gloo_end.h"

namespace holdfast::train {

class GlooCommunicator final : public ViewCommunicator {
 public:
  GlooCommunicator(std::shared_ptr<GlooGroup> group, int64_t collective_timeout_ms);
  ~GlooCommunicator() override;

  uint32_t rank() const override { return end_->rank(); }
  uint32_t size() const override { return end_->size(); }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    return all_to_all(all_, send, send_bytes, recv, recv_bytes);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    return all_gather(all_, send, recv, recv_bytes);
  }
  std::unique_ptr<Communicator> group(std::vector<uint32_t> ranks) override;
  std::unique_ptr<HandOverLine> line(uint32_t number, int64_t timeout_ms) override;
  Status send(uint32_t to, std::vector<std::byte> bytes) override {
    return own_.send(to, std::move(bytes));
  }
  Status receive(uint32_t from, std::span<std::byte> into) override {
    return own_.receive(from, into);
  }
  Status flush() override { return own_.flush(); }
  Status flush_older() override { return own_.flush_older(); }
  void abort() override { end_->abort(); }

 private:
  class Group;
  // The ranks of a group, this one's place among them, and the slots of its messages: an upper part
  // that is its own, counted up from 0.
  struct Members {
    std::vector<uint32_t> ranks;
    uint32_t self = 0;
    uint64_t next_slot = 0;
    uint32_t size() const { return static_cast<uint32_t>(ranks.size()); }
  };
  // What goes to each member: `count` bytes at `offset` of the send or receive buffer.
  struct Part {
    size_t offset = 0;
    size_t bytes = 0;
  };
  Status all_to_all(Members& members, std::span<const std::byte> send,
                    std::span<const size_t> send_bytes, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes);
  Status all_gather(Members& members, std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes);
  Status exchange(Members& members, std::span<const std::byte> send, const std::vector<Part>& out,
                  std::span<std::byte> recv, const std::vector<Part>& in);
  void watch();

  const std::shared_ptr<GlooEnd> end_;
  const int64_t timeout_ms_;
  Members all_;
  uint64_t groups_ = 0;  // made so far
  GlooHandOvers own_;

  // Gloo does not tell a buffer that was being filled when its connection broke. So a receive that
  // never ends stands open on every pair; it fails with the pair, and wakes who waits for others.
  std::byte canary_byte_{};
  std::unique_ptr<gloo::transport::UnboundBuffer> canary_;
  std::thread watcher_;
};

}  // namespace holdfast::train
