// The end of one communicator: what is broken off leaves the device at once, nobody waits for the rest of
// NCCL's abort who need not, and who must does so with a limit. NCCL's own functions, some of them held up.
#include <atomic>
#include <optional>

#include "tests/train/comm/nccl_kit.h"
#include "train/comm/nccl_link_cuda.h"

namespace holdfast::train {
namespace {

using std::chrono::milliseconds;

// While one of these lives no abort is over, though it has done all that NCCL does.
std::atomic<bool> g_held = false;
// While set, NCCL does not say that it has launched what it was given.
std::atomic<bool> g_launching = false;

class HeldUp {
 public:
  HeldUp() { g_held = true; }
  ~HeldUp() {
    release();
    g_launching = false;
  }
  void release() {
    g_held = false;
    g_held.notify_all();
  }
  Nccl nccl() const {
    Nccl functions = **load_nccl();
    functions.abort = [](ncclComm_t comm) {
      const ncclResult_t result = (*load_nccl())->abort(comm);
      g_held.wait(true);
      return result;
    };
    functions.async_error = [](ncclComm_t comm, ncclResult_t* state) {
      const ncclResult_t result = (*load_nccl())->async_error(comm, state);
      if (g_launching && *state == ncclSuccess) *state = ncclInProgress;
      return result;
    };
    return functions;
  }
};

ncclUniqueId new_id() {
  ncclUniqueId id{};
  CHECK((*load_nccl())->get_unique_id(&id) == ncclSuccess);
  return id;
}

NcclOptions within_ms(int64_t setup_ms) {
  NcclOptions options;
  options.setup_ms = setup_ms;
  return options;
}

// To and from `peer`, which may be this rank itself.
Status exchange_with(uint32_t peer, NcclLink& link, const std::byte* from, std::byte* to,
                     size_t bytes) {
  const NcclTransfer transfers[] = {{.peer = peer, .send = from, .bytes = bytes},
                                    {.peer = peer, .recv = to, .bytes = bytes}};
  return link.exchange(transfers);
}

constexpr size_t kBytes = 70'000;

void expect_works(const Rank& rank, NcclLink& link) {
  const std::vector<std::byte> sent(kBytes, std::byte{0x5a});
  DeviceBuffer<std::byte> from = on_device(rank.cuda, sent);
  DeviceBuffer<std::byte> to = on_device(rank.cuda, std::vector<std::byte>(kBytes));
  PinnedBuffer<std::byte> got(kBytes);
  const Status done = exchange_with(0, link, from.data(), to.data(), kBytes);
  ASSERT_TRUE(done) << done.error().to_string();
  download_bytes(rank.cuda, to.data(), kBytes, got.data());
  ASSERT_TRUE(rank.cuda.finish());
  EXPECT_TRUE(link.finished());
  EXPECT_EQ(std::memcmp(got.data(), sent.data(), kBytes), 0);
}

TEST_F(OneDevice, NobodyWaitsForTheRestOfAnAbortButTheNextCommunicator) {
  on_ranks({0}, [](const Rank& rank) {
    HeldUp held;
    const Nccl nccl = held.nccl();
    {
      NcclLink link(rank.cuda, nccl, rank.aborts, {.rank = 0, .size = 1}, {});
      ASSERT_TRUE(link.connect(new_id()));
      ASSERT_NO_FATAL_FAILURE(expect_works(rank, link));
      link.abandon();
      const Status broken = link.finished();
      ASSERT_FALSE(broken);
      EXPECT_EQ(broken.error().code, ErrorCode::kCommAborted) << broken.error().to_string();
    }  // nor does the link's own end
    EXPECT_FALSE(rank.aborts.wait_for(milliseconds(0)));
    {
      std::atomic<uint64_t> waits = 0;
      NcclOptions options = within_ms(300);
      options.on_wait = [&] { ++waits; };
      NcclLink link(rank.cuda, nccl, rank.aborts, {.rank = 0, .size = 1}, options);
      const Status early = link.connect(new_id());
      ASSERT_FALSE(early);
      EXPECT_EQ(early.error().code, ErrorCode::kDeviceFailed) << early.error().to_string();
      EXPECT_NE(early.error().message.find("300 ms"), std::string::npos) << early.error().message;
      EXPECT_GT(waits.load(), 10U) << "the progress counter must move meanwhile";
      rank.cuda.abort_word() = Cuda::kViewEnded;
      const Status ended = link.connect(new_id());
      rank.cuda.abort_word() = 0;
      ASSERT_FALSE(ended);
      EXPECT_EQ(ended.error().code, ErrorCode::kCommAborted) << ended.error().to_string();
    }
    held.release();
    NcclLink next(rank.cuda, nccl, rank.aborts, {.rank = 0, .size = 1}, {});
    const Status made = next.connect(new_id());
    ASSERT_TRUE(made) << made.error().to_string();
    expect_works(rank, next);
  });
}

// A thread of NCCL may still put its kernel behind what the device has, until the abort has ended it.
TEST_F(OneDevice, WhatIsBrokenOffWhileNcclLaunchesItIsNotIdleBeforeTheAbortIsOver) {
  on_ranks({0}, [](const Rank& rank) {
    HeldUp held;
    const Nccl nccl = held.nccl();
    NcclOptions options = within_ms(3'000);
    options.on_wait = [&] {
      if (g_launching) rank.cuda.abort_word() = Cuda::kViewEnded;
    };
    NcclLink link(rank.cuda, nccl, rank.aborts, {.rank = 0, .size = 1}, options);
    ASSERT_TRUE(link.connect(new_id()));
    ASSERT_NO_FATAL_FAILURE(expect_works(rank, link));
    DeviceBuffer<std::byte> from(kBytes), to(kBytes);
    g_launching = true;
    // Its memory may be freed when it returns, so it waits, too.
    const Status broken = exchange_with(0, link, from.data(), to.data(), kBytes);
    const Status early = link.idle();
    for (const Status* one : {&broken, &early}) {
      ASSERT_FALSE(*one);
      EXPECT_EQ(one->error().code, ErrorCode::kDeviceFailed) << one->error().to_string();
      EXPECT_NE(one->error().message.find("3000 ms"), std::string::npos) << one->error().message;
    }
    held.release();
    const Status idle = link.idle();
    EXPECT_TRUE(idle) << idle.error().to_string();
    const Status why = link.verdict();
    ASSERT_FALSE(why);
    EXPECT_EQ(why.error().code, ErrorCode::kCommAborted) << why.error().to_string();
    EXPECT_TRUE(rank.cuda.finish());
    rank.cuda.abort_word() = 0;
  });
}

// On the device's stream and on one beside it: the exchange that waits for the other lane is over, and
// nothing of it left, while the abort goes on.
TEST_F(TwoDevices, AnExchangeThatIsBrokenOffLeavesTheDeviceBeforeTheAbortIsOver) {
  for (const bool own_stream : {false, true}) {
    SCOPED_TRACE(own_stream);
    HeldUp held;
    const Nccl nccl = held.nccl();
    const ncclUniqueId id = new_id();
    on_ranks(ordinals_, [&](const Rank& rank) {
      std::atomic<bool> armed = false;
      NcclOptions options;
      options.on_wait = [&] {
        if (armed) rank.cuda.abort_word() = Cuda::kViewEnded;
      };
      std::optional<NcclLink> link;
      link.emplace(rank.cuda, nccl, rank.aborts,
                   NcclPlace{.rank = rank.number, .size = 2, .own_stream = own_stream}, options);
      ASSERT_TRUE(link->connect(id));
      DeviceBuffer<std::byte> from = on_device(rank.cuda, std::vector<std::byte>(kBytes));
      DeviceBuffer<std::byte> to = on_device(rank.cuda, std::vector<std::byte>(kBytes));
      const uint32_t peer = 1 - rank.number;
      ASSERT_TRUE(exchange_with(peer, *link, from.data(), to.data(), kBytes));
      ASSERT_EQ(cudaStreamSynchronize(link->stream()), cudaSuccess);
      meet(rank.comm);
      if (rank.number == 0) {
        const Status enqueued = exchange_with(peer, *link, from.data(), to.data(), kBytes);
        ASSERT_TRUE(enqueued) << enqueued.error().to_string();
        EXPECT_EQ(cudaStreamQuery(link->stream()), cudaErrorNotReady) << "it waits for the other";
        static_cast<void>(cudaGetLastError());
        armed = true;
        const auto begin = std::chrono::steady_clock::now();
        while (link->verdict()) std::this_thread::yield();
        const Status idle = link->idle();
        EXPECT_TRUE(idle) << idle.error().to_string();
        EXPECT_LT(ms_since(begin), 1'000);
        EXPECT_EQ(cudaStreamQuery(link->stream()), cudaSuccess);
        EXPECT_FALSE(rank.aborts.wait_for(milliseconds(0))) << "and its abort is not over";
        EXPECT_TRUE(rank.cuda.finish());
        rank.cuda.abort_word() = 0;
      }
      meet(rank.comm);
      link.reset();
      meet(rank.comm);
      if (rank.number == 0) held.release();  // before the ranks' devices end
    });
  }
}

}  // namespace
}  // namespace holdfast::train
