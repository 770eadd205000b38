// What a worker said stays true or is forgotten, and nothing is lost with a connection.
#include "train/worker/outbox.h"

#include <gtest/gtest.h>

namespace holdfast::train {
namespace {

constexpr Epoch kOne{1, 1}, kTwo{1, 2};

FromWorker step(uint64_t number, Epoch epoch = kOne) {
  StepDone done;
  done.epoch = epoch;
  done.step = Step(number);
  return done;
}

Hello hello(Epoch epoch, WorkerPhase phase, uint64_t next = 0) {
  Hello message;
  message.epoch = epoch;
  message.phase = phase;
  message.step = Step(next);
  return message;
}

std::vector<uint64_t> drain_steps(Outbox& outbox) {
  std::vector<uint64_t> steps;
  for (; outbox.front() != nullptr; outbox.sent())
    steps.push_back(std::get<StepDone>(*outbox.front()).step.value);
  return steps;
}

TEST(Outbox, KeepsTheOrderAndDropsTheOldest) {
  Outbox outbox({.unsent = 3, .sent = 2});
  EXPECT_EQ(outbox.front(), nullptr);
  for (uint64_t s = 0; s < 3; ++s) EXPECT_EQ(outbox.add(step(s)), 0u);
  EXPECT_EQ(outbox.add(step(3)), 1u);
  EXPECT_EQ(drain_steps(outbox), (std::vector<uint64_t>{1, 2, 3}));
}

TEST(Outbox, SaysTheNewestOfWhatWasSentAgainBeforeTheRest) {
  Outbox outbox({.unsent = 10, .sent = 2});
  for (uint64_t s = 0; s < 3; ++s) outbox.add(step(s));
  for (int i = 0; i < 3; ++i) outbox.sent();
  outbox.add(step(3));
  outbox.reconnected(hello(kOne, WorkerPhase::kRunning, 4));
  EXPECT_EQ(drain_steps(outbox), (std::vector<uint64_t>{1, 2, 3}));
  outbox.reconnected(hello(kOne, WorkerPhase::kRunning, 4));
  EXPECT_EQ(drain_steps(outbox), (std::vector<uint64_t>{2, 3})) << "again with every connection";
}

TEST(Outbox, AFrontThatWasNotSentStaysInFront) {
  Outbox outbox;
  outbox.add(step(0));
  outbox.add(step(1));
  outbox.reconnected(hello(kOne, WorkerPhase::kRunning));
  EXPECT_EQ(outbox.size(), 2u);
  EXPECT_EQ(drain_steps(outbox), (std::vector<uint64_t>{0, 1}));
}

TEST(Outbox, ForgetsWhatHelloContradicts) {
  struct Row {
    const char* what;
    FromWorker message;
    Hello hello;
    bool stays;
  };
  const Error error{ErrorCode::kDataMissing, "x"};
  const Row rows[] = {
      {"a row of the ledger stays, whatever view", step(1), hello(kTwo, WorkerPhase::kIdle), true},
      {"idle still", Quiesced{kOne, {}}, hello(kOne, WorkerPhase::kIdle), true},
      {"no longer idle", Quiesced{kOne, {}}, hello(kOne, WorkerPhase::kRestoring), false},
      {"idle in another view", Quiesced{kOne, {}}, hello(kTwo, WorkerPhase::kIdle), false},
      {"waits for Go", Restored{kOne, ""}, hello(kOne, WorkerPhase::kRestoring), true},
      {"runs", Restored{kOne, ""}, hello(kOne, WorkerPhase::kRunning), false},
      {"how it got there", Running{kOne, {}}, hello(kOne, WorkerPhase::kRunning), true},
      {"idle by now", Running{kOne, {}}, hello(kOne, WorkerPhase::kIdle), false},
      {"restore failed", RestoreFailed{kOne, {}, error}, hello(kOne, WorkerPhase::kIdle), true},
      {"restores again", RestoreFailed{kOne, {}, error}, hello(kOne, WorkerPhase::kRestoring), false},
      {"stands there", Stopped{kOne, Step(4)}, hello(kOne, WorkerPhase::kStopped, 4), true},
      {"stands elsewhere", Stopped{kOne, Step(4)}, hello(kOne, WorkerPhase::kStopped, 5), false},
      {"broken", CommBroken{kOne, Step(4), error}, hello(kOne, WorkerPhase::kBroken), true},
      {"mended", CommBroken{kOne, Step(4), error}, hello(kOne, WorkerPhase::kIdle), false},
      {"captured", Captured{kOne, {}, {}, 0}, hello(kOne, WorkerPhase::kRunning), true},
      {"captured, view over", Captured{kOne, {}, {}, 0}, hello(kTwo, WorkerPhase::kIdle), false},
      {"fatal", Fatal{kOne, error}, hello(kOne, WorkerPhase::kBroken), true},
      {"of no use here", Fatal{Epoch{}, error}, hello(kOne, WorkerPhase::kBroken), true},
      {"fatal, view over", Fatal{kOne, error}, hello(kTwo, WorkerPhase::kIdle), false},
      {"an older Hello", Hello{}, hello({}, WorkerPhase::kIdle), false}};
  for (const Row& row : rows) {
    Outbox outbox;
    outbox.add(row.message);
    outbox.reconnected(row.hello);
    EXPECT_EQ(outbox.size(), row.stays ? 1u : 0u) << row.what;
  }
}

}  // namespace
}  // namespace holdfast::train
