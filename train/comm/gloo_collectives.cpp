#include "train/comm/gloo_collectives.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <optional>

#include "base/check.h"

namespace holdfast::train {

using gloo::transport::UnboundBuffer;

namespace {

// The upper part of a slot says what the message belongs to: hand-overs, all ranks, a group.
constexpr uint64_t slots_of(uint64_t what) { return what << 40; }
constexpr uint64_t kHandOverSlot = slots_of(0), kAllSlot = slots_of(1), kFirstGroup = 2;
constexpr uint64_t kCanarySlot = UINT64_MAX >> 8;
constexpr const char* kConnectionLost = "the connection to a peer was lost";
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

void* writable(const std::byte* data) {  // Gloo does not write into what it sends
  return const_cast<void*>(static_cast<const void*>(data));
}

}  // namespace

struct GlooCommunicator::Buffers {
  UnboundBuffer* send = nullptr;
  UnboundBuffer* recv = nullptr;
  std::chrono::steady_clock::time_point deadline;
};

class GlooCommunicator::Group final : public Communicator {
 public:
  Group(GlooCommunicator& view, Members members) : view_(view), members_(std::move(members)) {}
  uint32_t rank() const override { return members_.self; }
  uint32_t size() const override { return members_.size(); }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    return view_.all_to_all(members_, send, send_bytes, recv, recv_bytes);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    return view_.all_gather(members_, send, recv, recv_bytes);
  }
  void abort() override { view_.abort(); }

 private:
  GlooCommunicator& view_;
  Members members_;
};

GlooCommunicator::GlooCommunicator(std::shared_ptr<GlooGroup> group,
                                   int64_t collective_timeout_ms)
    : group_(std::move(group)),
      timeout_ms_(collective_timeout_ms),
      all_{std::vector<uint32_t>(static_cast<size_t>(group_->size)),
           static_cast<uint32_t>(group_->rank), kAllSlot},
      sent_to_(all_.size()),
      received_from_(all_.size()) {
  std::iota(all_.ranks.begin(), all_.ranks.end(), 0U);
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

std::unique_ptr<Communicator> GlooCommunicator::group(std::vector<uint32_t> ranks) {
  CHECK(std::is_sorted(ranks.begin(), ranks.end()) && ranks.back() < size());
  const auto self = std::find(ranks.begin(), ranks.end(), rank());
  CHECK(self != ranks.end(), "rank {} makes a group without itself", rank());
  const auto place = static_cast<uint32_t>(self - ranks.begin());
  return std::make_unique<Group>(
      *this, Members{std::move(ranks), place, slots_of(kFirstGroup + groups_++)});
}

// ---- ends and errors ------------------------------------------------------------------------------

void GlooCommunicator::wake() {
  if (active_ == nullptr) return;
  if (active_->send != nullptr) active_->send->abortWaitSend();
  if (active_->recv != nullptr) active_->recv->abortWaitRecv();
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
  wake();
}

void GlooCommunicator::abort() {
  const MutexLock lock(mutex_);
  if (aborted_) return;
  aborted_ = true;
  group_->close();  // peers notice at once
  wake();
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

template <class Body>
Status GlooCommunicator::guarded(Buffers& buffers, const Body& body) {
  buffers.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms_);
  bool usable = false;
  {
    const MutexLock lock(mutex_);
    usable = !aborted_ && !failed_;
    if (usable) active_ = &buffers;
  }
  if (!usable) return fail(broken("it failed before", false));
  Status status;
  std::optional<std::string> thrown;
  try {
    status = body();
  } catch (const std::exception& e) {  // Gloo throws unrelated types
    thrown = e.what();
  }
  {
    const MutexLock lock(mutex_);
    active_ = nullptr;
  }
  if (thrown)
    return fail(broken(*thrown, std::chrono::steady_clock::now() >= buffers.deadline));
  return status;
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

// ---- collectives ----------------------------------------------------------------------------------

Status GlooCommunicator::exchange(Members& members, std::span<const std::byte> send,
                                  const std::vector<Part>& out, std::span<std::byte> recv,
                                  const std::vector<Part>& in) {
  const uint32_t self = members.self, count = members.size();
  CHECK(out[self].bytes == in[self].bytes, "what a rank sends itself is what it receives");
  const uint64_t slot = members.next_slot++;
  // They outlive being known to abort().
  const auto sending = group_->createUnboundBuffer(writable(send.data()), send.size());
  const auto receiving = group_->createUnboundBuffer(recv.data(), recv.size());
  Buffers buffers{sending.get(), receiving.get(), {}};
  return guarded(buffers, [&]() -> Status {
    size_t sends = 0, receives = 0;
    // Starting with the next rank spreads the load: not everybody sends to rank 0 first.
    for (uint32_t i = 1; i < count; ++i) {
      const uint32_t to = (self + i) % count, from = (self + count - i) % count;
      if (in[from].bytes > 0) {
        receiving->recv(static_cast<int>(members.ranks[from]), slot, in[from].offset,
                        in[from].bytes);
        ++receives;
      }
      if (out[to].bytes > 0) {
        sending->send(static_cast<int>(members.ranks[to]), slot, out[to].offset, out[to].bytes);
        ++sends;
      }
    }
    if (out[self].bytes > 0)
      std::memcpy(recv.data() + in[self].offset, send.data() + out[self].offset, out[self].bytes);
    return wait_all(buffers, sends, receives);
  });
}

Status GlooCommunicator::all_to_all(Members& members, std::span<const std::byte> send,
                                    std::span<const size_t> send_bytes, std::span<std::byte> recv,
                                    std::span<const size_t> recv_bytes) {
  CHECK(send_bytes.size() == members.size() && recv_bytes.size() == members.size());
  std::vector<Part> out(members.size()), in(members.size());
  size_t sent = 0, received = 0;
  for (uint32_t r = 0; r < members.size(); ++r) {
    out[r] = {sent, send_bytes[r]};
    in[r] = {received, recv_bytes[r]};
    sent += send_bytes[r];
    received += recv_bytes[r];
  }
  CHECK(sent <= send.size() && received <= recv.size());
  return exchange(members, send, out, recv, in);
}

Status GlooCommunicator::all_gather(Members& members, std::span<const std::byte> send,
                                    std::span<std::byte> recv,
                                    std::span<const size_t> recv_bytes) {
  CHECK(recv_bytes.size() == members.size() && recv_bytes[members.self] == send.size());
  const std::vector<Part> out(members.size(), {0, send.size()});
  std::vector<Part> in(members.size());
  size_t received = 0;
  for (uint32_t r = 0; r < members.size(); ++r) {
    in[r] = {received, recv_bytes[r]};
    received += recv_bytes[r];
  }
  CHECK(received <= recv.size());
  return exchange(members, send, out, recv, in);
}

// ---- hand-overs -----------------------------------------------------------------------------------

Status GlooCommunicator::send(uint32_t to, std::vector<std::byte> bytes) {
  CHECK(to < size() && to != rank() && !bytes.empty());
  HandedOver& last = handed_over_.emplace_back();
  last.bytes = std::move(bytes);
  last.buffer = group_->createUnboundBuffer(last.bytes.data(), last.bytes.size());
  Buffers none;
  return guarded(none, [&]() -> Status {
    last.buffer->send(static_cast<int>(to), kHandOverSlot + sent_to_[to]++);
    return {};
  });
}

Status GlooCommunicator::receive(uint32_t from, std::span<std::byte> into) {
  CHECK(from < size() && from != rank() && !into.empty());
  const auto receiving = group_->createUnboundBuffer(into.data(), into.size());
  Buffers buffers{nullptr, receiving.get(), {}};
  return guarded(buffers, [&]() -> Status {
    receiving->recv(static_cast<int>(from), kHandOverSlot + received_from_[from]++);
    return wait_all(buffers, 0, 1);
  });
}

Status GlooCommunicator::flush() {
  while (!handed_over_.empty()) {
    Buffers buffers{handed_over_.front().buffer.get(), nullptr, {}};
    RETURN_IF_ERROR(guarded(buffers, [&] { return wait_all(buffers, 1, 0); }));
    handed_over_.pop_front();
  }
  return {};
}

}  // namespace holdfast::train
