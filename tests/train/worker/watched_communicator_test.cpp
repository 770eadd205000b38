// While a worker waits for others, in whichever way, its progress page says so.
#include "train/worker/watched_communicator.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <thread>

#include "train/comm/in_process.h"

namespace holdfast::train {
namespace {

using Act = std::function<Status(ViewCommunicator&, Communicator& group)>;

// Rank 0 waits in `wait` until rank 1, which has seen on rank 0's page that it waits, does `answer`.
void expect_waiting(const Act& wait, const Act& answer) {
  auto comms = make_in_process_group(2, 5'000);
  ProgressRecord record{};
  Pulse pulse(record);
  WatchedCommunicator watched(std::move(comms[0]), pulse);
  EXPECT_EQ(watched.rank(), 0U);
  EXPECT_EQ(watched.size(), 2U);
  std::atomic<bool> over{false};
  std::thread other([&] {
    const auto group = comms[1]->group({0, 1});
    while (record.waiting.load() == 0 && !over) std::this_thread::yield();
    EXPECT_EQ(record.waiting.load(), 1U);
    if (!over) {
      EXPECT_TRUE(answer(*comms[1], *group));
    }
  });
  const auto group = watched.group({0, 1});
  EXPECT_EQ(group->size(), 2U);
  EXPECT_TRUE(wait(watched, *group));
  over = true;
  other.join();
  EXPECT_EQ(record.waiting.load(), 0U);
}

Status gather(Communicator& comm) {
  std::array<std::byte, 2> all{};
  const std::array<size_t, 2> sizes = {1, 1};
  return comm.all_gather(std::span(all).first(1), all, sizes);
}

TEST(WatchedCommunicatorTest, SaysThatItWaits) {
  const Act in_view = [](ViewCommunicator& view, Communicator&) { return gather(view); };
  const Act in_group = [](ViewCommunicator&, Communicator& group) { return gather(group); };
  expect_waiting(in_view, in_view);
  expect_waiting(in_group, in_group);
  expect_waiting(
      [](ViewCommunicator& view, Communicator&) -> Status {
        std::array<std::byte, 3> into{};
        RETURN_IF_ERROR(view.receive(1, into));
        EXPECT_EQ(into[2], std::byte{7});
        return view.flush();
      },
      [](ViewCommunicator& view, Communicator&) {
        return view.send(0, {std::byte{5}, std::byte{6}, std::byte{7}});
      });
}

}  // namespace
}  // namespace holdfast::train
