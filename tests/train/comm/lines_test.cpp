// Lines of hand-overs, of every communicator.
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/train/comm/conformance_kit.h"

namespace holdfast::train {
namespace {

class Lines : public Conformance {};
INSTANTIATE_TEST_SUITE_P(Kinds, Lines, communicator_kinds(), kind_name);

// The view's own hand-overs, and two lines that a thread each works on, all between the same two ranks.
TEST_P(Lines, KeepApartFromEachOtherAndFromTheView) {
  const Comms comms = connect(2);
  std::vector<std::unique_ptr<HandOverLine>> lines[2];
  for (uint32_t r = 0; r < 2; ++r)
    for (const uint32_t number : {0U, ViewCommunicator::kMostLines - 1})
      lines[r].push_back(comms[r]->line(number, 20'000));
  on_threads(6, [&](uint32_t thread) {
    const uint32_t r = thread % 2, which = thread / 2;
    HandOvers& way = which == 2 ? static_cast<HandOvers&>(*comms[r]) : *lines[r][which];
    for (uint64_t round = 0; round < 200; ++round) {
      const auto piece = [&](uint32_t from) {
        auto bytes = payload(round * 3 + which, from, 1 - from, 3'000);
        bytes.push_back(static_cast<std::byte>(round));
        return bytes;
      };
      ASSERT_TRUE(way.send(1 - r, piece(r)));
      const auto wanted = piece(1 - r);
      std::vector<std::byte> got(wanted.size());
      const Status status = way.receive(1 - r, got);
      ASSERT_TRUE(status) << status.error().to_string();
      ASSERT_EQ(got, wanted) << "round " << round << " of " << which << " on rank " << r;
    }
    ASSERT_TRUE(way.flush());
  });
}

TEST_P(Lines, ThatAreAbortedEndAloneAndOthersGoOn) {
  const Comms comms = connect(2);
  const auto line = comms[0]->line(3, 60'000);
  const auto other = comms[0]->line(4, 20'000), at_peer = comms[1]->line(4, 20'000);
  const auto begun = std::chrono::steady_clock::now();
  std::atomic<bool> entering{false};
  on_threads(2, [&](uint32_t thread) {
    if (thread == 1) {
      while (!entering) std::this_thread::yield();
      return line->abort();
    }
    std::vector<std::byte> room(4);
    entering = true;
    for (int again = 0; again < 2; ++again) {
      const Status status = line->receive(1, room);
      ASSERT_FALSE(status);
      EXPECT_EQ(status.error().code, ErrorCode::kCommAborted);
    }
  });
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(1));
  std::vector<std::byte> room(4);
  ASSERT_TRUE(other->send(1, room));
  EXPECT_TRUE(at_peer->receive(0, room));
  on_threads(2, [&](uint32_t r) { EXPECT_TRUE(meet(*comms[r])); });
}

TEST_P(Lines, EndWithTheViewAndMayOutliveIt) {
  for (const bool aborted : {true, false}) {
    Comms comms = connect(2);
    const auto mine = comms[0]->line(0, 60'000), theirs = comms[1]->line(0, 60'000);
    std::atomic<int> entering{0};
    on_threads(3, [&](uint32_t thread) {
      if (thread == 2) {
        while (entering < 2) std::this_thread::yield();
        if (aborted) comms[0]->abort();
        comms[0].reset();
        return;
      }
      std::vector<std::byte> room(4);
      ++entering;
      const Status status = (thread == 0 ? mine : theirs)->receive(1 - thread, room);
      ASSERT_FALSE(status);
      if (thread == 1) {
        EXPECT_EQ(status.error().code, ErrorCode::kCommPeerLost);
      }
    });
    std::vector<std::byte> room(4);
    EXPECT_FALSE(mine->send(1, room) && mine->flush());
  }
}

}  // namespace
}  // namespace holdfast::train
