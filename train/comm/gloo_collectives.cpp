#include "train/comm/gloo_collectives.h"

#include <fmt/format.h>
#include <gloo/transport/unbound_buffer.h>

#include <chrono>
#include <cstring>

#include "base/check.h"

namespace holdfast::train {

using gloo::transport::UnboundBuffer;

namespace {

constexpr uint64_t kCanarySlot = UINT64_MAX >> 8;  // collectives count up from 0
constexpr const char* kConnectionLost = "the connection to a peer was lost";
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

}  // namespace

struct GlooCommunicator::Buffers {
  std::unique_ptr<UnboundBuffer> send, recv;
  std::chrono::steady_clock::time_point deadline;
};

GlooCommunicator::GlooCommunicator(std::shared_ptr<GlooGroup> group,
                                   int64_t collective_timeout_ms)
    : group_(std::move(group)), timeout_ms_(collective_timeout_ms) {
  if (group_->size == 1) return;
  canary_ = group_->createUnboundBuffer(&canary_byte_, 1);
  watcher_ = std::thread([this] { watch(); });
}

GlooCommunicator::~GlooCommunicator() {
  if (watcher_.joinable()) {
    canary_->abortWaitRecv();
    watcher_.join();
  }
  group_->close();
}

void GlooCommunicator::watch() {
  try {
    for (int peer = 0; peer < group_->size; ++peer)
      if (peer != group_->rank) canary_->recv(peer, kCanarySlot);
    if (!canary_->waitRecv(kForever)) return;  // this communicator ends
  } catch (const std::exception&) {            // a pair broke
  }
  const MutexLock lock(mutex_);
  if (failed_ || aborted_) return;
  failed_ = true;
  group_->close();
  if (active_ != nullptr) {
    active_->send->abortWaitSend();
    active_->recv->abortWaitRecv();
  }
}

void GlooCommunicator::abort() {
  const MutexLock lock(mutex_);
  if (aborted_) return;
  aborted_ = true;
  group_->close();  // peers notice at once
  if (active_ != nullptr) {
    active_->send->abortWaitSend();
    active_->recv->abortWaitRecv();
  }
}

Error GlooCommunicator::broken(const std::string& what, bool late) {
  const MutexLock lock(mutex_);
  if (!failed_ && !aborted_) group_->close();
  failed_ = true;
  if (aborted_)
    return {ErrorCode::kCommAborted, fmt::format("rank {} of {}", rank(), size())};
  if (late)
    return {ErrorCode::kCommTimeout,
            fmt::format("rank {} waited {} ms for the others", rank(), timeout_ms_)};
  return {ErrorCode::kCommPeerLost, fmt::format("rank {} of {}: {}", rank(), size(), what)};
}

Status GlooCommunicator::exchange(std::span<const std::byte> send, const std::vector<Part>& out,
                                  std::span<std::byte> recv, const std::vector<Part>& in) {
  const uint32_t self = rank();
  CHECK(out[self].bytes == in[self].bytes, "what a rank sends itself is what it receives");
  const uint64_t slot = next_slot_++;
  Buffers buffers;
  buffers.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms_);
  try {
    // Gloo does not write into what it sends.
    buffers.send = group_->createUnboundBuffer(
        const_cast<void*>(static_cast<const void*>(send.data())), send.size());
    buffers.recv = group_->createUnboundBuffer(recv.data(), recv.size());
    bool usable = false;
    {
      const MutexLock lock(mutex_);
      usable = !aborted_ && !failed_;
      if (usable) active_ = &buffers;
    }
    if (!usable) return fail(broken("it failed before", false));
    size_t sends = 0, receives = 0;
    // Starting with the next rank spreads the load: not everybody sends to rank 0 first.
    for (uint32_t i = 1; i < size(); ++i) {
      const uint32_t to = (self + i) % size(), from = (self + size() - i) % size();
      if (in[from].bytes > 0) {
        buffers.recv->recv(static_cast<int>(from), slot, in[from].offset, in[from].bytes);
        ++receives;
      }
      if (out[to].bytes > 0) {
        buffers.send->send(static_cast<int>(to), slot, out[to].offset, out[to].bytes);
        ++sends;
      }
    }
    if (out[self].bytes > 0)
      std::memcpy(recv.data() + in[self].offset, send.data() + out[self].offset, out[self].bytes);
    const Status status = wait_all(buffers, sends, receives);
    {
      const MutexLock lock(mutex_);
      active_ = nullptr;
    }
    return status;
  } catch (const std::exception& e) {  // Gloo throws unrelated types
    {
      const MutexLock lock(mutex_);
      active_ = nullptr;
    }
    return fail(broken(e.what(), std::chrono::steady_clock::now() >= buffers.deadline));
  }
}

Status GlooCommunicator::wait_all(Buffers& buffers, size_t sends, size_t receives) {
  const auto left = [&] {
    // Rounded up: Gloo's own timeout must not come before the deadline that tells late from lost.
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(
        buffers.deadline - std::chrono::steady_clock::now());
    return std::max(ms, std::chrono::milliseconds(1));
  };
  for (; receives > 0; --receives)
    if (!buffers.recv->waitRecv(left())) return fail(broken(kConnectionLost, false));
  for (; sends > 0; --sends)
    if (!buffers.send->waitSend(left())) return fail(broken(kConnectionLost, false));
  return {};
}

Status GlooCommunicator::all_to_all(std::span<const std::byte> send,
                                    std::span<const size_t> send_bytes, std::span<std::byte> recv,
                                    std::span<const size_t> recv_bytes) {
  CHECK(send_bytes.size() == size() && recv_bytes.size() == size());
  std::vector<Part> out(size()), in(size());
  size_t sent = 0, received = 0;
  for (uint32_t r = 0; r < size(); ++r) {
    out[r] = {sent, send_bytes[r]};
    in[r] = {received, recv_bytes[r]};
    sent += send_bytes[r];
    received += recv_bytes[r];
  }
  CHECK(sent <= send.size() && received <= recv.size());
  return exchange(send, out, recv, in);
}

Status GlooCommunicator::all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                                    std::span<const size_t> recv_bytes) {
  CHECK(recv_bytes.size() == size() && recv_bytes[rank()] == send.size());
  const std::vector<Part> out(size(), {0, send.size()});
  std::vector<Part> in(size());
  size_t received = 0;
  for (uint32_t r = 0; r < size(); ++r) {
    in[r] = {received, recv_bytes[r]};
    received += recv_bytes[r];
  }
  CHECK(received <= recv.size());
  return exchange(send, out, recv, in);
}

}  // namespace holdfast::train
