#include "train/comm/gloo_collectives.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "base/check.h"

namespace holdfast::train {

namespace {

// The upper part of a slot says what the message belongs to: hand-overs, all ranks, a group.
constexpr uint64_t slots_of(uint64_t what) { return what << 40; }
constexpr uint64_t kHandOverSlot = slots_of(0), kAllSlot = slots_of(1), kFirstGroup = 2;
constexpr uint64_t kFirstLine = 1 << 14;
static_assert(kFirstLine + ViewCommunicator::kMostLines < 1 << 16, "slots end at the canary's");
constexpr uint64_t kCanarySlot = UINT64_MAX >> 8;
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

void* writable(const std::byte* data) {  // Gloo does not write into what it sends
  return const_cast<void*>(static_cast<const void*>(data));
}

}  // namespace

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
    : end_(std::make_shared<GlooEnd>(std::move(group))),
      timeout_ms_(collective_timeout_ms),
      all_{std::vector<uint32_t>(end_->size()), end_->rank(), kAllSlot},
      own_(end_, kHandOverSlot, collective_timeout_ms) {
  std::iota(all_.ranks.begin(), all_.ranks.end(), 0U);
  if (size() == 1) return;
  canary_ = end_->group->createUnboundBuffer(&canary_byte_, 1);
  watcher_ = std::thread([this] { watch(); });
}

GlooCommunicator::~GlooCommunicator() {
  if (watcher_.joinable()) {
    canary_->abortWaitRecv();
    watcher_.join();
  }
  end_->fail_all();  // lines may outlive it
}

std::unique_ptr<Communicator> GlooCommunicator::group(std::vector<uint32_t> ranks) {
  CHECK(std::is_sorted(ranks.begin(), ranks.end()) && ranks.back() < size());
  CHECK(kFirstGroup + groups_ < kFirstLine);
  const auto self = std::find(ranks.begin(), ranks.end(), rank());
  CHECK(self != ranks.end(), "rank {} makes a group without itself", rank());
  const auto place = static_cast<uint32_t>(self - ranks.begin());
  return std::make_unique<Group>(
      *this, Members{std::move(ranks), place, slots_of(kFirstGroup + groups_++)});
}

std::unique_ptr<HandOverLine> GlooCommunicator::line(uint32_t number, int64_t timeout_ms) {
  CHECK(number < kMostLines);
  return std::make_unique<GlooHandOvers>(end_, slots_of(kFirstLine + number), timeout_ms);
}

void GlooCommunicator::watch() {
  try {
    for (uint32_t peer = 0; peer < size(); ++peer)
      if (peer != rank()) canary_->recv(static_cast<int>(peer), kCanarySlot);
    if (!canary_->waitRecv(kForever)) return;  // this communicator ends
  } catch (const std::exception&) {            // a pair broke
  }
  end_->fail_all();
}

// ---- collectives ----------------------------------------------------------------------------------

Status GlooCommunicator::exchange(Members& members, std::span<const std::byte> send,
                                  const std::vector<Part>& out, std::span<std::byte> recv,
                                  const std::vector<Part>& in) {
  const uint32_t self = members.self, count = members.size();
  CHECK(out[self].bytes == in[self].bytes, "what a rank sends itself is what it receives");
  const uint64_t slot = members.next_slot++;
  // They outlive being known to abort().
  const auto sending = end_->group->createUnboundBuffer(writable(send.data()), send.size());
  const auto receiving = end_->group->createUnboundBuffer(recv.data(), recv.size());
  GlooBuffers buffers{sending.get(), receiving.get(), timeout_ms_};
  return end_->guarded(buffers, [&]() -> Status {
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
    return end_->wait_all(buffers, sends, receives);
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

}  // namespace holdfast::train
