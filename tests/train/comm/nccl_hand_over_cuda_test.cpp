// Hand-overs between stages on accelerators: every byte arrives in its order, over NCCL and through host
// memory alike; nothing on a device waits for another member before both have come; and whatever ends a view
// ends every wait. Two members take two devices; what one device can show runs on one.
#include "train/comm/nccl_hand_over.h"

#include <algorithm>
#include <atomic>
#include <latch>

#include "tests/train/comm/nccl_kit.h"
#include "train/comm/staged_hand_over.h"

namespace holdfast::train {
namespace {

using Clock = std::chrono::steady_clock;
const std::vector<uint32_t> kTwoStages = {0, 1};

std::vector<std::byte> piece(uint64_t round, uint32_t from, size_t most) {
  std::vector<std::byte> bytes = sent_from_to(round, from, 1 - from, most);
  bytes.push_back(static_cast<std::byte>(round));
  return bytes;
}

Status send_piece(const Rank& rank, PayloadHandOver& way, uint64_t round, size_t most) {
  DeviceBuffer<std::byte> bytes = on_device(rank.cuda, piece(round, rank.number, most));
  RETURN_IF_ERROR(way.send(1 - rank.number, bytes.data(), bytes.size()));
  zero(rank.cuda, bytes.data(), bytes.size());  // it may be overwritten at once
  return {};
}

Status receive_piece(const Rank& rank, PayloadHandOver& way, uint64_t round, size_t most,
                     bool& right) {
  const std::vector<std::byte> wanted = piece(round, 1 - rank.number, most);
  ASSIGN_OR_RETURN(const std::byte* at, way.receive(1 - rank.number, wanted.size()));
  PinnedBuffer<std::byte> got(wanted.size());
  download_bytes(rank.cuda, at, wanted.size(), got.data());
  RETURN_IF_ERROR(rank.cuda.finish());
  right = std::equal(wanted.begin(), wanted.end(), got.data());
  return {};
}

void expect_sent(const Rank& rank, PayloadHandOver& way, uint64_t round, size_t most) {
  const Status sent = send_piece(rank, way, round, most);
  ASSERT_TRUE(sent) << "rank " << rank.number << ": " << sent.error().to_string();
}
void expect_received(const Rank& rank, PayloadHandOver& way, uint64_t round, size_t most) {
  bool right = false;
  const Status got = receive_piece(rank, way, round, most, right);
  ASSERT_TRUE(got) << "rank " << rank.number << ": " << got.error().to_string();
  ASSERT_TRUE(right) << "rank " << rank.number << " round " << round;
}

// Up and down at once, small and large; in each block, all of it is on its way before any is taken.
void exchange_blocks(const Rank& rank, PayloadHandOver& way) {
  for (uint64_t block = 0; block < 8; ++block) {
    const size_t most = block % 3 == 2 ? 3'000'000 : 900;
    for (uint64_t round = block * 4; round < block * 4 + 4; ++round)
      ASSERT_NO_FATAL_FAILURE(expect_sent(rank, way, round, most));
    ASSERT_TRUE(rank.cuda.finish()) << "nothing on the device waits for the receiver";
    meet(rank.comm);
    for (uint64_t round = block * 4; round < block * 4 + 4; ++round)
      ASSERT_NO_FATAL_FAILURE(expect_received(rank, way, round, most));
    const Status left = way.flush();
    ASSERT_TRUE(left) << left.error().to_string();
  }
}

std::unique_ptr<NcclHandOver> connected(const Rank& rank, NcclOptions options = {}) {
  auto made = connect_stages(rank.cuda, rank.aborts, rank.comm, kTwoStages, std::move(options));
  CHECK(made.has_value(), "{}", made.error().to_string());
  CHECK(made->hand_over != nullptr, "{}", made->path);
  return std::move(made->hand_over);
}

// ---- on one device ------------------------------------------------------------------------------

TEST_F(OneDevice, StagesThatShareItGoThroughHostMemoryAndSaySo) {
  on_ranks({0, 0}, [](const Rank& rank) {
    const auto made = connect_stages(rank.cuda, rank.aborts, rank.comm, kTwoStages, {});
    ASSERT_TRUE(made) << made.error().to_string();
    EXPECT_EQ(made->hand_over, nullptr);
    EXPECT_EQ(made->path.rfind("FOR TESTING ONLY: payload goes through host memory", 0), 0U)
        << made->path;
    StagedHandOver staged(rank.cuda);
    exchange_blocks(rank, staged.over(rank.comm));
    meet(rank.comm);
  });
}

// ---- on two -------------------------------------------------------------------------------------

TEST_F(TwoDevices, EveryHandOverArrivesInItsOrderWithoutTheDeviceWaiting) {
  on_ranks(ordinals_, [](const Rank& rank) {
    const auto way = connected(rank);
    exchange_blocks(rank, *way);
    meet(rank.comm);
  });
}

// Each is taken only after the sender went on: it waits for those before it and not for the newest.
TEST_F(TwoDevices, OlderHandOversAreFlushedWithoutTheNewest) {
  on_ranks(ordinals_, [](const Rank& rank) {
    const auto way = connected(rank);
    for (uint64_t round = 0; round < 20; ++round) {
      if (rank.number == 0) {
        ASSERT_NO_FATAL_FAILURE(expect_sent(rank, *way, round, 900));
        const Status left = way->flush_older();
        ASSERT_TRUE(left) << left.error().to_string();
      }
      meet(rank.comm);
      if (rank.number == 1) {
        ASSERT_NO_FATAL_FAILURE(expect_received(rank, *way, round, 900));
      }
    }
    ASSERT_TRUE(way->flush());
    meet(rank.comm);
  });
}

// There and back many times, and no host waits for its device.
TEST_F(TwoDevices, HandOversKeepTheStreamsOrder) {
  constexpr size_t kBytes = size_t{8} << 20;
  on_ranks(ordinals_, [](const Rank& rank) {
    const auto way = connected(rank);
    DeviceBuffer<std::byte> passed_on(kBytes);
    if (rank.number == 0)
      passed_on = on_device(rank.cuda, std::vector<std::byte>(kBytes, std::byte{0x11}));
    for (int round = 0; round < 40; ++round) {
      if (rank.number == 0) {
        ASSERT_TRUE(way->send(1, passed_on.data(), kBytes));
        zero(rank.cuda, passed_on.data(), kBytes);
      }
      const auto at = way->receive(1 - rank.number, kBytes);
      ASSERT_TRUE(at) << at.error().to_string();
      copy(rank.cuda, *at, kBytes, passed_on.data());
      if (rank.number == 1) {
        ASSERT_TRUE(way->send(0, passed_on.data(), kBytes));
        zero(rank.cuda, passed_on.data(), kBytes);
      }
    }
    ASSERT_TRUE(way->flush());
    PinnedBuffer<std::byte> got(kBytes);
    download(rank.cuda, passed_on.data(), kBytes, got.data());
    ASSERT_TRUE(rank.cuda.finish());
    const std::byte wanted{static_cast<unsigned char>(rank.number == 0 ? 0x11 : 0)};
    EXPECT_TRUE(
        std::all_of(got.data(), got.data() + kBytes, [&](std::byte b) { return b == wanted; }));
    meet(rank.comm);
  });
}

TEST_F(TwoDevices, WhatNobodyTakesOrHandsOverIsATimeout) {
  std::latch given_up(1);  // if both waited, the one whose time is up first would be gone for the other
  on_ranks(ordinals_, [&](const Rank& rank) {
    NcclOptions options;
    options.collective_ms = 1'000;
    auto way = connected(rank, options);
    const auto begin = Clock::now();
    if (rank.number == 0) {
      ASSERT_NO_FATAL_FAILURE(expect_sent(rank, *way, 1, 900));
      const Status left = way->flush();
      ASSERT_FALSE(left);
      EXPECT_EQ(left.error().code, ErrorCode::kCommTimeout) << left.error().to_string();
      EXPECT_TRUE(rank.cuda.finish());
    }
    meet(rank.comm);
    if (rank.number == 1) {
      EXPECT_NO_FATAL_FAILURE(expect_received(rank, *way, 1, 900)) << "late, but it is there";
      const auto none = way->receive(0, 100);
      given_up.count_down();
      ASSERT_FALSE(none);
      EXPECT_EQ(none.error().code, ErrorCode::kCommTimeout) << none.error().to_string();
    } else {
      const Status left = way->flush();
      EXPECT_TRUE(left) << left.error().to_string();
      given_up.wait();
      const auto none = way->receive(1, 100);
      ASSERT_FALSE(none) << "rank 1 has given up";
      EXPECT_EQ(none.error().code, ErrorCode::kCommPeerLost) << none.error().to_string();
    }
    EXPECT_LT(ms_since(begin), 6'000);
  });
}

// Rank 0 waits on the host for what rank 1 never hands over, until `end` ends the view; then both connect
// anew, as in the next view, and all is well.
void end_while_receiving(const std::vector<uint32_t>& ordinals,
                         const std::function<void(const Rank&, NcclHandOver&)>& end,
                         ErrorCode wanted) {
  auto next = make_in_process_group(2, 20'000);
  std::atomic<Clock::time_point> ended = Clock::now();
  on_ranks(ordinals, [&](const Rank& rank) {
    auto way = connected(rank);
    ASSERT_NO_FATAL_FAILURE(expect_sent(rank, *way, 1, 900));
    ASSERT_NO_FATAL_FAILURE(expect_received(rank, *way, 1, 900));
    ASSERT_TRUE(way->flush());
    meet(rank.comm);
    if (rank.number == 0) {
      const auto at = way->receive(1, 100);
      EXPECT_LT(ms_since(ended), 1'000);
      ASSERT_FALSE(at);
      EXPECT_EQ(at.error().code, wanted) << at.error().to_string();
    } else {
      ended = Clock::now();
      end(rank, *way);
    }
    way->abandon();
    EXPECT_EQ(way->receive(1 - rank.number, 100).has_value(), false) << "it stays broken";
    const Status sent = send_piece(rank, *way, 2, 900);
    EXPECT_FALSE(sent && way->flush());
    way.reset();
    rank.cuda.abort_word() = 0;
    EXPECT_TRUE(rank.cuda.finish()) << "the device itself is well";
    const Rank anew{rank.number, rank.cuda, *next[rank.number], rank.aborts};
    const auto again = connected(anew);
    exchange_blocks(anew, *again);
    meet(anew.comm);
  });
}

TEST_F(TwoDevices, AMemberThatGoesAwayEndsAWaitForItAndAViewFollows) {
  end_while_receiving(
      ordinals_,
      [](const Rank& rank, NcclHandOver&) {
        rank.cuda.abort_word() = Cuda::kViewEnded;
        rank.comm.abort();
      },
      ErrorCode::kCommPeerLost);
}

// A hand-over that is under way on one side only: the receiver has enqueued its part on the sender's word, and
// the sender is gone. The guard ends what the device waits for.
TEST_F(TwoDevices, ASenderThatBreaksItsWordIsNoticedInTime) {
  on_ranks(ordinals_, [](const Rank& rank) {
    NcclOptions options;
    options.collective_ms = 2'000;
    auto way = connected(rank, options);
    ASSERT_NO_FATAL_FAILURE(expect_sent(rank, *way, 1, 900));
    ASSERT_NO_FATAL_FAILURE(expect_received(rank, *way, 1, 900));
    ASSERT_TRUE(way->flush());
    meet(rank.comm);
    if (rank.number == 1) {
      // Its word, without its part: on the line of the channel down, as rank 0 hears it.
      const auto line = rank.comm.line(1, 5'000);
      std::byte word{};
      ASSERT_TRUE(line->receive(0, {&word, 1}));
      ASSERT_TRUE(line->send(0, {word}));
      meet(rank.comm);
      return;
    }
    const auto begin = Clock::now();
    const auto at = way->receive(1, 5'000'000);
    const Status finished = rank.cuda.finish();
    EXPECT_LT(ms_since(begin), 6'000);
    ASSERT_FALSE(at.has_value() && finished.has_value());
    const ErrorCode code = at ? finished.error().code : at.error().code;
    EXPECT_TRUE(code == ErrorCode::kCommTimeout || code == ErrorCode::kCommPeerLost)
        << (at ? finished : Status(fail(at.error()))).error().to_string();
    EXPECT_EQ(rank.cuda.abort_word().load(), Cuda::kExchangeBroken) << "no update is made of it";
    way.reset();
    EXPECT_EQ(rank.cuda.abort_word().load(), 0U);
    EXPECT_TRUE(rank.cuda.finish());
    meet(rank.comm);
  });
}

}  // namespace
}  // namespace holdfast::train
