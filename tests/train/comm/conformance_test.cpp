// One suite for every communicator: ranks are threads of this process.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/train/comm/conformance_kit.h"

namespace holdfast::train {
namespace {

INSTANTIATE_TEST_SUITE_P(Kinds, Conformance, communicator_kinds(), kind_name);

Status all_to_all_round(Communicator& comm, uint64_t round, size_t most, bool& right) {
  std::vector<std::byte> send, wanted;
  std::vector<size_t> send_bytes, recv_bytes;
  for (uint32_t r = 0; r < comm.size(); ++r) {
    const auto out = payload(round, comm.rank(), r, most), in = payload(round, r, comm.rank(), most);
    send.insert(send.end(), out.begin(), out.end());
    wanted.insert(wanted.end(), in.begin(), in.end());
    send_bytes.push_back(out.size());
    recv_bytes.push_back(in.size());
  }
  std::vector<std::byte> recv(wanted.size());
  const Status status = comm.all_to_all(send, send_bytes, recv, recv_bytes);
  right = recv == wanted;
  return status;
}

TEST_P(Conformance, EveryRankGetsWhatWasSentToIt) {
  for (uint32_t size = 1; size <= 5; ++size) {
    const Comms comms = connect(size);
    on_threads(size, [&](uint32_t r) {
      for (uint64_t round = 0; round < 60; ++round) {
        bool right = false;
        const Status status = all_to_all_round(*comms[r], round, round % 10 == 9 ? 300'000 : 900, right);
        ASSERT_TRUE(status.has_value()) << status.error().to_string();
        ASSERT_TRUE(right) << "size " << size << " round " << round << " rank " << r;
      }
    });
  }
}

TEST_P(Conformance, GathersUnevenPiecesInRankOrder) {
  const uint32_t size = 4;
  const Comms comms = connect(size);
  on_threads(size, [&](uint32_t r) {
    for (uint64_t round = 0; round < 50; ++round) {
      std::vector<std::byte> wanted;
      std::vector<size_t> sizes;
      for (uint32_t from = 0; from < size; ++from) {
        const auto piece = payload(round, from, 0, 5'000);
        wanted.insert(wanted.end(), piece.begin(), piece.end());
        sizes.push_back(piece.size());
      }
      std::vector<std::byte> got(wanted.size());
      ASSERT_TRUE(comms[r]->all_gather(payload(round, r, 0, 5'000), got, sizes).has_value());
      ASSERT_EQ(got, wanted);
      ASSERT_TRUE(meet(*comms[r]).has_value());
    }
  });
}

TEST_P(Conformance, NobodyLeavesACollectiveBeforeAllHaveCome) {
  const uint32_t size = 3;
  const Comms comms = connect(size);
  std::atomic<int> inside{0};
  on_threads(size, [&](uint32_t r) {
    for (int round = 1; round <= 100; ++round) {
      ++inside;
      ASSERT_TRUE(meet(*comms[r]).has_value());
      ASSERT_GE(inside.load(), round * static_cast<int>(size));
      ASSERT_TRUE(meet(*comms[r]).has_value());
    }
  });
}

// Stages of a pipeline: every rank in a group of its own stage, and in one that overlaps.
TEST_P(Conformance, GroupsTalkAmongThemselves) {
  const Comms comms = connect(5);
  const std::vector<std::vector<uint32_t>> groups = {{0, 2}, {1, 3, 4}, {0, 1, 4}, {2}, {0, 2}};
  on_threads(5, [&](uint32_t r) {
    std::vector<std::pair<size_t, std::unique_ptr<Communicator>>> mine;
    for (size_t g = 0; g < groups.size(); ++g)
      if (std::count(groups[g].begin(), groups[g].end(), r) > 0)
        mine.emplace_back(g, comms[r]->group(groups[g]));
    for (uint64_t round = 0; round < 40; ++round) {
      for (const auto& [g, group] : mine) {
        ASSERT_EQ(group->size(), groups[g].size());
        ASSERT_EQ(groups[g][group->rank()], r);
        bool right = false;
        const Status status = all_to_all_round(*group, round * 10 + g, 3'000, right);
        ASSERT_TRUE(status.has_value()) << status.error().to_string();
        ASSERT_TRUE(right) << "group " << g << " round " << round << " rank " << r;
      }
      if (round % 8 != 7) continue;
      ASSERT_TRUE(meet(*comms[r]).has_value());
    }
  });
}

// Neighbours send to each other before either takes anything; large and small, many under way.
TEST_P(Conformance, HandOversArriveInTheirOrderWhoeverWaitsFirst) {
  const uint32_t size = 3;
  const Comms comms = connect(size);
  const auto piece = [](uint64_t round, uint32_t from, uint32_t to) {
    auto bytes = payload(round, from, to, round % 7 == 3 ? 700'000 : 2'000);
    bytes.push_back(static_cast<std::byte>(round));
    return bytes;
  };
  on_threads(size, [&](uint32_t r) {
    for (uint64_t block = 0; block < 5; ++block) {
      for (uint64_t round = block * 10; round < block * 10 + 10; ++round)
        for (const uint32_t to : {(r + 1) % size, (r + 2) % size})
          ASSERT_TRUE(comms[r]->send(to, piece(round, r, to)));
      for (uint64_t round = block * 10; round < block * 10 + 10; ++round)
        for (const uint32_t from : {(r + 2) % size, (r + 1) % size}) {
          const auto wanted = piece(round, from, r);
          std::vector<std::byte> got(wanted.size());
          const Status status = comms[r]->receive(from, got);
          ASSERT_TRUE(status) << status.error().to_string();
          ASSERT_EQ(got, wanted) << "round " << round << " from " << from << " to " << r;
        }
      ASSERT_TRUE(block % 2 == 0 || comms[r]->flush());
      ASSERT_TRUE(meet(*comms[r]));
    }
    ASSERT_TRUE(comms[r]->flush());
  });
}

// Each is taken only after the sender went on: that one waits for those before it and not for the newest.
TEST_P(Conformance, OlderHandOversAreFlushedWithoutTheNewest) {
  const Comms comms = connect(2);
  std::atomic<uint32_t> taken = 0;
  on_threads(2, [&](uint32_t r) {
    for (uint32_t round = 0; round < 20; ++round) {
      std::vector<std::byte> bytes(200'000, static_cast<std::byte>(round));
      if (r == 0) {
        ASSERT_TRUE(comms[0]->send(1, bytes));
        ASSERT_TRUE(comms[0]->flush_older());
        const bool copies = GetParam().name == "InProcess";  // what is sent has left at once
        ASSERT_TRUE(copies || taken.load() >= round);
        ASSERT_TRUE(meet(*comms[0]));
      } else {
        ASSERT_TRUE(meet(*comms[1]));
        ++taken;
        std::vector<std::byte> got(bytes.size());
        ASSERT_TRUE(comms[1]->receive(0, got));
        ASSERT_EQ(got, bytes);
      }
    }
    ASSERT_TRUE(comms[r]->flush());
  });
}

TEST_P(Conformance, AnAbortEndsGroupsAndHandOversToo) {
  for (const bool in_group : {true, false}) {
    Comms comms = connect(4, 60'000);
    const auto begun = std::chrono::steady_clock::now();
    on_threads(4, [&](uint32_t r) {
      const auto group = comms[r]->group(r < 2 ? std::vector<uint32_t>{0, 1}
                                               : std::vector<uint32_t>{2, 3});
      if (r == 1) return comms[1]->abort();  // ranks 2 and 3 are not in its group
      std::vector<std::byte> room(1);
      const Status status = r == 3 || !in_group ? comms[r]->receive(1, room) : meet(*group);
      ASSERT_FALSE(status);
      EXPECT_EQ(status.error().code, ErrorCode::kCommPeerLost);
      EXPECT_FALSE(meet(*group));
      const Status sent = comms[r]->send(r == 0 ? 2 : 0, room);
      EXPECT_FALSE(sent && comms[r]->flush());
    });
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(2));
  }
}

TEST_P(Conformance, WhatIsNeverHandedOverIsATimeout) {
  Comms comms = connect(2, 20);
  std::vector<std::byte> room(5);
  const Status status = comms[0]->receive(1, room);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kCommTimeout);
}

// Rank 0 never comes; the others wait for it and are told to stop from another thread.
TEST_P(Conformance, AbortEndsTheCollectiveUnderWayAndAllLaterOnes) {
  Comms comms = connect(3, 60'000);
  const auto begun = std::chrono::steady_clock::now();
  std::vector<ErrorCode> first(3), later(3);
  std::atomic<int> entering{0};
  on_threads(4, [&](uint32_t r) {
    if (r == 3) {
      while (entering < 2) std::this_thread::yield();
      comms[1]->abort();
      comms[1]->abort();
      comms[2]->abort();
      return;
    }
    if (r == 0) return;
    ++entering;
    first[r] = meet(*comms[r]).error().code;
    later[r] = meet(*comms[r]).error().code;
  });
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(1));
  for (const uint32_t r : {1U, 2U}) {
    // Rank 2 may have seen that rank 1 was gone before it was aborted itself.
    for (const ErrorCode code : {first[r], later[r]})
      EXPECT_TRUE(code == ErrorCode::kCommAborted ||
                  (r == 2 && code == ErrorCode::kCommPeerLost));
  }
}

TEST_P(Conformance, PeersNoticeAnAbortedAndADestroyedRank) {
  for (const bool destroyed : {false, true}) {
    Comms comms = connect(3, 60'000);
    const auto begun = std::chrono::steady_clock::now();
    on_threads(3, [&](uint32_t r) {
      if (r == 1) {
        destroyed ? comms[1].reset() : comms[1]->abort();
        return;
      }
      const Status status = meet(*comms[r]);
      ASSERT_FALSE(status.has_value());
      EXPECT_EQ(status.error().code, ErrorCode::kCommPeerLost);
      EXPECT_FALSE(meet(*comms[r]).has_value());
    });
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(2));
  }
}

TEST_P(Conformance, ARankThatStaysAwayIsATimeout) {
  for (const int64_t timeout_ms : {1, 2, 3, 5, 8, 13, 50}) {
    Comms comms = connect(2, timeout_ms);
    const Status status = meet(*comms[0]);
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().code, ErrorCode::kCommTimeout) << timeout_ms << " ms";
  }
}

TEST_P(Conformance, ConnectingIsBoundedAndNamesWhoIsMissing) {
  auto one = make_(), other = make_();
  const std::vector<std::string> addresses = {*one->prepare(0, 2), *other->prepare(1, 2)};
  other.reset();  // as when its process has ended meanwhile
  const auto begun = std::chrono::steady_clock::now();
  const auto comm = one->connect(addresses, 200, 1'000);
  ASSERT_FALSE(comm.has_value());
  EXPECT_EQ(comm.error().code, ErrorCode::kCommSetup);
  EXPECT_NE(comm.error().message.find("rank 1"), std::string::npos) << comm.error().message;
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(3));
}

TEST_P(Conformance, ConnectingCanBeAbortedAndPreparedAgain) {
  auto one = make_(), other = make_();
  const std::vector<std::string> addresses = {*one->prepare(0, 2), *other->prepare(1, 2)};
  ErrorCode code{};
  on_threads(2, [&](uint32_t r) {
    if (r == 0)
      code = one->connect(addresses, 60'000, 1'000).error().code;
    else
      one->abort_connect();
  });
  EXPECT_EQ(code, ErrorCode::kCommAborted);
  const std::vector<std::string> again = {*one->prepare(0, 2), *other->prepare(1, 2)};
  on_threads(2, [&](uint32_t r) {
    auto comm = (r == 0 ? one : other)->connect(again, 10'000, 10'000);
    ASSERT_TRUE(comm.has_value()) << comm.error().to_string();
    EXPECT_TRUE(meet(**comm).has_value());
  });
}

// A view after the other, each smaller or larger than the one before, some ended by a loss.
TEST_P(Conformance, GroupsAreRebuiltManyTimes) {
  std::mt19937_64 random(5);
  for (int view = 0; view < 20; ++view) {
    const auto size = static_cast<uint32_t>(1 + random() % 4);
    Comms comms = connect(size);
    const uint32_t lost = static_cast<uint32_t>(random() % (2 * size));
    on_threads(size, [&](uint32_t r) {
      for (uint64_t round = 0; round < 5; ++round) {
        bool right = false;
        if (r == lost && round == 3) return comms[r]->abort();
        const Status status = all_to_all_round(*comms[r], round, 20'000, right);
        if (!status) return comms[r]->abort();
        ASSERT_TRUE(right);
        if (lost < size) continue;
        ASSERT_TRUE(meet(*comms[r]).has_value());
      }
    });
  }
}

}  // namespace
}  // namespace holdfast::train
