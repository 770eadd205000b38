// Payload between accelerators: every byte arrives, and whatever goes wrong between the lanes ends
// every wait with the right error. Two lanes take two devices; what one device can show runs on
// one.
#include <atomic>
#include <latch>

#include "tests/train/comm/nccl_kit.h"
#include "train/comm/nccl_payload.h"
#include "train/comm/payloads.h"

namespace holdfast::train {
namespace {

using Clock = std::chrono::steady_clock;

// ---- on one device ------------------------------------------------------------------------------

TEST_F(OneDevice, LanesThatShareItGoThroughHostMemoryAndSaySo) {
  on_ranks({0, 0}, [](const Rank& rank) {
    LanePayload<Cuda> payload(rank.cuda, [] {});
    const Status opened = payload.open(rank.comm, rank.comm, {0});
    ASSERT_TRUE(opened) << opened.error().to_string();
    EXPECT_EQ(payload.path(),
              "FOR TESTING ONLY: payload goes through host memory, since lanes 0 and 1 share one "
              "accelerator");
    for (uint64_t round = 0; round < 20; ++round)
      expect_exchange(rank, payload.over(rank.comm), round, round % 5 == 4 ? 3'000'000 : 900);
  });
}

TEST_F(OneDevice, ALaneThatIsAloneSaysNothing) {
  on_ranks({0}, [](const Rank& rank) {
    LanePayload<Cuda> payload(rank.cuda, [] {});
    ASSERT_TRUE(payload.open(rank.comm, rank.comm, {0}));
    EXPECT_EQ(payload.path(), "");
    for (uint64_t round = 0; round < 5; ++round)
      expect_exchange(rank, payload.over(rank.comm), round, 900);
  });
}

// Says what lane 0 says for lane 1, too, but for the device's identity: lane 1 never comes.
class LaneOfGhosts final : public Communicator {
 public:
  uint32_t rank() const override { return 0; }
  uint32_t size() const override { return 2; }
  Status all_to_all(std::span<const std::byte>, std::span<const size_t>, std::span<std::byte>,
                    std::span<const size_t>) override {
    return fail(ErrorCode::kCommPeerLost, "a ghost");
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t>) override {
    std::copy(send.begin(), send.end(), recv.begin());
    std::copy(send.begin(), send.end(), recv.begin() + static_cast<ptrdiff_t>(send.size()));
    recv[send.size()] ^= std::byte{0xff};
    return {};
  }
  void abort() override {}
};

TEST_F(OneDevice, LanesThatDoNotComeAreAnErrorInTime) {
  on_ranks({0}, [](const Rank& rank) {
    LaneOfGhosts ghosts;
    std::atomic<uint64_t> waits = 0;
    NcclOptions options;
    options.setup_ms = 1'500;
    options.on_wait = [&] { ++waits; };
    const auto begin = Clock::now();
    const auto made = connect_nccl(rank.cuda, rank.aborts, ghosts, options);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, ErrorCode::kCommSetup) << made.error().to_string();
    EXPECT_NE(made.error().message.find("1500 ms"), std::string::npos) << made.error().message;
    EXPECT_LT(ms_since(begin), 6'000);
    EXPECT_GT(waits.load(), 10U) << "the progress counter must move meanwhile";
    EXPECT_TRUE(rank.cuda.finish());
  });
}

TEST_F(OneDevice, AnAbortEndsSettingUp) {
  on_ranks({0}, [](const Rank& rank) {
    LaneOfGhosts ghosts;
    std::atomic<uint64_t> waits = 0;
    std::atomic<Clock::time_point> aborted = Clock::now();
    NcclOptions options;
    options.setup_ms = 60'000;
    std::latch waiting(1);
    options.on_wait = [&] {
      if (++waits == 100) waiting.count_down();
    };
    std::thread daemon([&] {
      waiting.wait();
      aborted = Clock::now();
      rank.cuda.abort_word() = 1;
    });
    const auto made = connect_nccl(rank.cuda, rank.aborts, ghosts, options);
    EXPECT_LT(ms_since(aborted), 1'000);
    daemon.join();
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, ErrorCode::kCommAborted) << made.error().to_string();
    EXPECT_TRUE(rank.cuda.finish());
  });
}

// ---- on two -------------------------------------------------------------------------------------

std::unique_ptr<NcclPayload> connected(const Rank& rank, NcclOptions options = {}) {
  auto made = connect_nccl(rank.cuda, rank.aborts, rank.comm, std::move(options));
  CHECK(made.has_value(), "{}", made.error().to_string());
  CHECK(made->payload != nullptr, "{}", made->path);
  return std::move(made->payload);
}

TEST_F(TwoDevices, EveryByteArrives) {
  on_ranks(ordinals_, [](const Rank& rank) {
    LanePayload<Cuda> payload(rank.cuda, [] {});
    const Status opened = payload.open(rank.comm, rank.comm, {0});
    ASSERT_TRUE(opened) << opened.error().to_string();
    EXPECT_EQ(payload.path().rfind("payload goes from device to device by NCCL 2.", 0), 0U)
        << payload.path();
    uint64_t sent = 0;
    for (uint64_t round = 0; round < 60; ++round) {
      const size_t most = round % 10 == 9 ? 5'000'000 : 900;
      expect_exchange(rank, payload.over(rank.comm), round, most);
      sent += sent_from_to(round, rank.number, 1 - rank.number, most).size();
    }
    EXPECT_EQ(payload.over(rank.comm).sent_bytes(), sent);
  });
}

TEST_F(TwoDevices, ExchangesKeepTheStreamsOrderWithoutTheHostWaiting) {
  constexpr size_t kBytes = size_t{8} << 20;
  on_ranks(ordinals_, [](const Rank& rank) {
    const auto payload = connected(rank);
    // Each round sends on what the round before brought, and zeroes what it had sent.
    DeviceBuffer<std::byte> a = on_device(
        rank.cuda, std::vector<std::byte>(kBytes, std::byte(rank.number == 0 ? 0x11 : 0x22)));
    DeviceBuffer<std::byte> b(kBytes);
    std::vector<size_t> counts(2, 0);
    counts[1 - rank.number] = kBytes;
    for (int round = 0; round < 51; ++round) {
      ASSERT_TRUE(payload->all_to_all(a.data(), counts, b.data(), counts));
      zero(rank.cuda, a.data(), kBytes);
      std::swap(a, b);
    }
    PinnedBuffer<std::byte> got(kBytes);
    download(rank.cuda, a.data(), kBytes, got.data());
    const Status finished = rank.cuda.finish();
    ASSERT_TRUE(finished) << finished.error().to_string();
    const std::byte wanted{static_cast<unsigned char>(rank.number == 0 ? 0x22 : 0x11)};
    EXPECT_TRUE(
        std::all_of(got.data(), got.data() + kBytes, [&](std::byte x) { return x == wanted; }));
  });
}

TEST_F(TwoDevices, ALaneThatGoesAwayIsNoticedInTime) {
  on_ranks(ordinals_, [](const Rank& rank) {
    NcclOptions options;
    options.collective_ms = 1'500;
    auto payload = connected(rank, options);
    expect_exchange(rank, *payload, 1, 900);
    meet(rank.comm);
    if (rank.number == 1) {
      payload.reset();
      meet(rank.comm);
      return;
    }
    const auto begin = Clock::now();
    bool right = false;
    const Status status = exchange_round(rank, *payload, kNotEmpty, 900, right);
    EXPECT_LT(ms_since(begin), 4'000);
    ASSERT_FALSE(status);
    EXPECT_TRUE(status.error().code == ErrorCode::kCommPeerLost ||
                status.error().code == ErrorCode::kCommTimeout)
        << status.error().to_string();
    const Status again = exchange_round(rank, *payload, kNotEmpty, 900, right);
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, status.error().code) << "it stays broken";
    EXPECT_EQ(rank.cuda.abort_word().load(), Cuda::kExchangeBroken);
    payload.reset();
    EXPECT_EQ(rank.cuda.abort_word().load(), 0U) << "the next view may update";
    EXPECT_TRUE(rank.cuda.finish()) << "the device itself is well";
    meet(rank.comm);
  });
}

// Rank 0 waits in an exchange that rank 1 never joins, until the abort word is set from another
// thread: by the guard's report that it waits, so it is known to. Then both connect anew.
void abort_while_waiting(const Rank& rank, bool connected_before) {
  std::atomic<bool> armed = false;
  std::atomic<Clock::time_point> aborted = Clock::now();
  NcclOptions options;
  options.on_wait = [&] {
    if (!armed.exchange(false)) return;
    aborted = Clock::now();
    rank.cuda.abort_word() = 1;
  };
  auto payload = connected(rank, options);
  if (connected_before) expect_exchange(rank, *payload, 1, 900);
  meet(rank.comm);
  if (rank.number == 0) {
    armed = true;
    bool right = false;
    const Status status = exchange_round(rank, *payload, kNotEmpty, 900, right);
    EXPECT_LT(ms_since(aborted), 1'000);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kCommAborted) << status.error().to_string();
    rank.cuda.abort_word() = 0;
  }
  meet(rank.comm);
  payload.reset();
  EXPECT_TRUE(rank.cuda.finish());
  meet(rank.comm);
  const auto anew = connected(rank);
  for (uint64_t round = 0; round < 5; ++round) expect_exchange(rank, *anew, round, 70'000);
}

TEST_F(TwoDevices, AnAbortEndsAWaitForTheDeviceAndAViewFollows) {
  on_ranks(ordinals_, [](const Rank& rank) { abort_while_waiting(rank, true); });
}

TEST_F(TwoDevices, AnAbortEndsTheFirstExchangeToo) {
  on_ranks(ordinals_, [](const Rank& rank) { abort_while_waiting(rank, false); });
}

// The reduction waits for the other lane, its sum and the update that uses it are enqueued behind
// it; then the exchange is broken off: by the view's end, or because the other lane does not come.
void break_off_a_reduce(const Rank& rank, bool by_abort) {
  constexpr size_t kElements = 300'000;
  std::atomic<bool> armed = false;
  NcclOptions options;
  if (!by_abort) options.collective_ms = 1'500;
  options.on_wait = [&] {
    if (by_abort && armed.exchange(false)) rank.cuda.abort_word() = Cuda::kViewEnded;
  };
  auto payload = connected(rank, options);
  const auto filled = [&](int byte) {
    return on_device(rank.cuda,
                     std::vector<std::byte>(kElements * sizeof(float), std::byte(byte)));
  };
  const auto floats = [](DeviceBuffer<std::byte>& at) {
    return reinterpret_cast<float*>(at.data());
  };
  auto now = filled(0), part = filled(0), received = filled(0), sum = filled(0),
       next = filled(0x3f), next_m = filled(0x3f), next_v = filled(0x3f);
  std::vector<size_t> counts(2, 0);
  counts[1 - rank.number] = part.size();
  const kernels::AdamwConstants constants{.beta1 = 0.9F,
                                          .beta2 = 0.95F,
                                          .epsilon = 1e-8F,
                                          .rate = 1e-3F,
                                          .gradient_scale = 1,
                                          .m_correction = 1,
                                          .v_correction = 1};
  const kernels::AdamwRange<Bf16> range{kElements,
                                        0.1F,
                                        {floats(now), floats(now), floats(now), floats(sum),
                                         floats(next), floats(next_m), floats(next_v), nullptr}};
  const auto reduce_and_update = [&]() -> Status {
    RETURN_IF_ERROR(payload->all_to_all(part.data(), counts, received.data(), counts));
    add(rank.cuda, floats(received), kElements, floats(sum));
    adamw(rank.cuda, constants, {&range, 1});
    return {};
  };
  const auto is_still = [&](DeviceBuffer<std::byte>& at, int byte) {
    PinnedBuffer<std::byte> host(at.size());
    download(rank.cuda, at.data(), at.size(), host.data());
    EXPECT_TRUE(rank.cuda.finish());
    return std::all_of(host.data(), host.data() + host.size(),
                       [&](std::byte b) { return b == std::byte(byte); });
  };
  ASSERT_TRUE(reduce_and_update());
  ASSERT_TRUE(is_still(next, 0)) << "an update of zeros, where nothing is aborted";
  const std::vector<std::byte> mark(next.size(), std::byte(0x3f));
  for (DeviceBuffer<std::byte>* at : {&next, &next_m, &next_v})  // where the update writes
    kernels::upload_now(rank.cuda, mark.data(), mark.size(), at->data());
  meet(rank.comm);
  if (rank.number == 0) {
    const Status enqueued = reduce_and_update();
    ASSERT_TRUE(enqueued) << enqueued.error().to_string();
    armed = true;
    const Status finished = rank.cuda.finish();
    ASSERT_FALSE(finished);
    EXPECT_EQ(finished.error().code,
              by_abort ? ErrorCode::kCommAborted : ErrorCode::kCommTimeout)
        << finished.error().to_string();
    payload.reset();
    EXPECT_TRUE(is_still(next, 0x3f) && is_still(next_m, 0x3f) && is_still(next_v, 0x3f));
  }
  meet(rank.comm);
}

TEST_F(TwoDevices, AnAbortInTheMiddleOfAReduceLeavesTheNextVersionUntouched) {
  on_ranks(ordinals_, [](const Rank& rank) { break_off_a_reduce(rank, true); });
}

TEST_F(TwoDevices, ATimeoutInTheMiddleOfAReduceLeavesTheNextVersionUntouched) {
  on_ranks(ordinals_, [](const Rank& rank) { break_off_a_reduce(rank, false); });
}

}  // namespace
}  // namespace holdfast::train
