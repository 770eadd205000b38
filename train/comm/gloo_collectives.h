// What the ranks of one connected Gloo context do together: collectives, and hand-overs from rank to rank.
#pragma once

#include <gloo/transport/unbound_buffer.h>

#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "train/comm/communicator.h"
#include "train/comm/gloo_group.h"

namespace holdfast::train {

class GlooCommunicator final : public ViewCommunicator {
 public:
  GlooCommunicator(std::shared_ptr<GlooGroup> group, int64_t collective_timeout_ms);
  ~GlooCommunicator() override;

  uint32_t rank() const override { return static_cast<uint32_t>(group_->rank); }
  uint32_t size() const override { return static_cast<uint32_t>(group_->size); }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    return all_to_all(all_, send, send_bytes, recv, recv_bytes);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    return all_gather(all_, send, recv, recv_bytes);
  }
  std::unique_ptr<Communicator> group(std::vector<uint32_t> ranks) override;
  Status send(uint32_t to, std::vector<std::byte> bytes) override;
  Status receive(uint32_t from, std::span<std::byte> into) override;
  Status flush() override;
  void abort() override EXCLUDES(mutex_);

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
  struct Buffers;
  // What goes to each member: `count` bytes at `offset` of the send or receive buffer.
  struct Part {
    size_t offset = 0;
    size_t bytes = 0;
  };
  struct HandedOver {
    std::vector<std::byte> bytes;
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer;
  };
  Status all_to_all(Members& members, std::span<const std::byte> send,
                    std::span<const size_t> send_bytes, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes);
  Status all_gather(Members& members, std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes);
  Status exchange(Members& members, std::span<const std::byte> send, const std::vector<Part>& out,
                  std::span<std::byte> recv, const std::vector<Part>& in);
  // Runs `body` with `buffers` as those that abort() wakes.
  template <class Body>
  Status guarded(Buffers& buffers, const Body& body) EXCLUDES(mutex_);
  Status wait_all(Buffers& buffers, size_t sends, size_t receives);
  Error broken(const std::string& what, bool late) EXCLUDES(mutex_);
  void wake() REQUIRES(mutex_);
  void watch() EXCLUDES(mutex_);

  const std::shared_ptr<GlooGroup> group_;
  const int64_t timeout_ms_;
  Members all_;
  uint64_t groups_ = 0;                              // made so far
  std::vector<uint64_t> sent_to_, received_from_;    // hand-overs so far, by rank
  std::deque<HandedOver> handed_over_;               // that may not have left yet
  Mutex mutex_;
  bool aborted_ GUARDED_BY(mutex_) = false;
  bool failed_ GUARDED_BY(mutex_) = false;
  Buffers* active_ GUARDED_BY(mutex_) = nullptr;  // of what is under way

  // Gloo does not tell a buffer that was being filled when its connection broke. So a receive that
  // never ends stands open on every pair; it fails with the pair, and wakes who waits for others.
  std::byte canary_byte_{};
  std::unique_ptr<gloo::transport::UnboundBuffer> canary_;
  std::thread watcher_;
};

}  // namespace holdfast::train
