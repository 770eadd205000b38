#include <gtest/gtest.h>

#include <type_traits>

#include "train/worker/messages.h"

namespace holdfast::train {
namespace {

const Epoch kEpoch{3, 17};
const StateVersion kState{Version(120), kEpoch};
const Error kError{ErrorCode::kCommPeerLost, "rank 2 is gone"};

std::vector<FromWorker> every_from_worker() {
  StepDone step;
  step.epoch = kEpoch;
  step.step = Step(119);
  step.lane = 1;
  step.micro_batches = {1, 3};
  step.loss = 5.25;
  step.popularity = {10, 0, 7};
  step.tokens_dropped = 5;
  step.dropped = {3, 0, 2};
  step.stall_seconds = 0.125;
  StepDone evaluated = step;
  evaluated.held_out_loss = 0.1 + 0.2;
  evaluated.of_stage = {1, 2};
  return {Hello{kWorkerLinkVersion,
                2,
                4711,
                "00ff",
                kEpoch,
                WorkerPhase::kStopped,
                Step(7),
                {{kState, {0, 5}}}},
          Quiesced{kEpoch, {{kState, {1, 2}}}},
          Restored{kEpoch, "YWJj"},
          RestoreFailed{kEpoch, {{4, 9}}, kError},
          step,
          evaluated,
          Captured{kEpoch, kState, {{4, 9}, {5, 10}}, 0.25},
          CaptureMissed{kEpoch, Version(3), "too late"},
          Stopped{kEpoch, Step(8)},
          StopRefused{kEpoch, Step(8)},
          CommBroken{kEpoch, Step(8), kError},
          Fatal{kEpoch, kError},
          Running{kEpoch, {5'400'000'000, 0.05, 0.26, 0.01, 0.02}}};
}

std::vector<ToWorker> every_to_worker() {
  conf::JobConfig job;
  job.name = JobId("tiny");
  return {Welcome{job, kEpoch, "/dev/shm/arena", "127.0.0.1"},
          Quiesce{kEpoch},
          Restore{kEpoch, kState, 1, 2, {0, 3}, {0, 1}, {0, 1, 1}, {{1, WorkerSource::kArena, 7}}},
          Go{kEpoch, {"YQ==", "Yg=="}},
          Capture{kEpoch, Version(5), {{1, 7}}},
          StopAt{kEpoch, Step(9)},
          StopAt{kEpoch, std::nullopt},
          Exit{"the job has ended"}};
}

TEST(WorkerLinkCodec, EveryMessageMakesTheRoundTrip) {
  for (const FromWorker& message : every_from_worker()) {
    const std::string text = encode(message);
    const auto back = decode_from_worker(text);
    ASSERT_TRUE(back) << back.error().to_string();
    EXPECT_EQ(back->index(), message.index());
    EXPECT_EQ(encode(*back), text);
  }
  for (const ToWorker& message : every_to_worker()) {
    const std::string text = encode(message);
    const auto back = decode_to_worker(text);
    ASSERT_TRUE(back) << back.error().to_string();
    EXPECT_EQ(back->index(), message.index());
    EXPECT_EQ(encode(*back), text);
  }
}

TEST(WorkerLinkCodec, TypeAndBodyNameTheMessage) {
  EXPECT_EQ(encode(ToWorker(Quiesce{kEpoch})),
            R"({"type":"Quiesce","body":{"epoch":{"incarnation":3,"number":17}}})");
  EXPECT_NE(encode(FromWorker(CommBroken{})).find("\"CommBroken\""), std::string::npos);
}

TEST(WorkerLinkCodec, MalformedFramesSayWhatIsWrong) {
  const struct {
    const char* text;
    const char* says;
  } cases[] = {{"", "frame"},
               {"[]", "type"},
               {R"({"type":"Quiesce"})", "body"},
               {R"({"type":3,"body":{}})", "type"},
               {R"({"type":"Quiesce","body":{},"more":1})", "frame must be"},
               {R"({"type":"Hallo","body":{}})", "\"Hallo\""},
               {R"({"type":"Hello","body":{}})", "\"Hello\""},  // not to a worker
               {R"({"type":"Quiesce","body":{}})", "Quiesce"},
               {R"({"type":"Exit","body":{"why":1}})", "Exit"}};
  for (const auto& c : cases) {
    const auto message = decode_to_worker(c.text);
    ASSERT_FALSE(message) << c.text;
    EXPECT_EQ(message.error().code, ErrorCode::kBadMessage);
    EXPECT_NE(message.error().message.find(c.says), std::string::npos) << message.error().message;
  }
}

TEST(WorkerLinkCodec, JobKeyFollowsNameContentAndSubmission) {
  conf::JobConfig job;
  job.name = JobId("a");
  const std::string key = job_key(job, kEpoch);
  EXPECT_EQ(key.size(), 16u);
  EXPECT_EQ(job_key(job, kEpoch), key);
  EXPECT_NE(job_key(job, kEpoch.next()), key);
  job.optimizer.learning_rate *= 2;
  EXPECT_NE(job_key(job, kEpoch), key);
  const auto text = encode(ToWorker(Welcome{job, kEpoch, "", ""}));
  const auto back = decode_to_worker(text);
  ASSERT_TRUE(back);
  const auto& welcome = std::get<Welcome>(*back);  // both ends derive the same key
  EXPECT_EQ(job_key(welcome.job, welcome.submitted_in), job_key(job, kEpoch));
}

}  // namespace
}  // namespace holdfast::train
