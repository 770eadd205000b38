// What people ask of the coordinator, and what they are refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "daemon/coordinator/coordinator.h"

namespace holdfast::daemon {
namespace {

class RequestsTest : public testing::Test {
 protected:
  static conf::JobConfig job(const std::string& name) {
    conf::JobConfig job;
    job.name = JobId(name);
    job.data.path = "/data/text.tokens";
    return job;
  }
  // What the person is told.
  Status ask(const Event& event) {
    records_ = coordinator_.step(++now_ms_, event).records;
    for (const Record& record : records_)
      if (const auto* done = std::get_if<RequestDone>(&record)) return done->status;
    ADD_FAILURE() << "no answer";
    return {};
  }
  Status submit(const std::string& name) { return ask(SubmitJob{1, job(name)}); }
  // nullopt: accepted.
  static std::optional<ErrorCode> code(const Status& status) {
    if (status) return std::nullopt;
    return status.error().code;
  }
  static JobRecord ended(const std::string& name, JobState state, uint64_t safe) {
    JobRecord record;
    record.config = job(name);
    record.state = state;
    record.safe = {Version(safe), Epoch{7, 1}};
    return record;
  }

  Coordinator coordinator_{CoordinatorOptions{}, 0, Epoch{7, 1}, {}};
  std::vector<Record> records_;
  int64_t now_ms_ = 0;
};

TEST_F(RequestsTest, OneJobAtATimeAndANameOnce) {
  ASSERT_TRUE(submit("a"));
  EXPECT_EQ(code(submit("a")), ErrorCode::kJobExists);
  EXPECT_EQ(code(submit("b")), ErrorCode::kJobState);
  ASSERT_TRUE(ask(StopJob{1, JobId("a")}));
  EXPECT_EQ(code(submit("a")), ErrorCode::kJobExists) << "stopped, but its records are there";
  EXPECT_TRUE(submit("b")) << "a has made nothing that could be lost";
}

TEST_F(RequestsTest, ARemovedNameIsFreeAndTheNewJobIsAnother) {
  ASSERT_TRUE(submit("a"));
  EXPECT_EQ(code(ask(RemoveJob{1, JobId("a")})), ErrorCode::kJobState) << "under way";
  const Epoch first = coordinator_.active_job()->submitted_in;
  ASSERT_TRUE(ask(StopJob{1, JobId("a")}));
  ASSERT_TRUE(ask(RemoveJob{1, JobId("a")}));
  EXPECT_TRUE(std::any_of(records_.begin(), records_.end(), [](const Record& r) {
    return std::holds_alternative<DropJob>(r);
  }));
  EXPECT_EQ(code(ask(RemoveJob{1, JobId("a")})), ErrorCode::kJobUnknown);
  ASSERT_TRUE(submit("a"));
  EXPECT_GT(coordinator_.active_job()->submitted_in, first);
}

TEST_F(RequestsTest, AJobThatEndedKeepsItsStateUntilItIsRemoved) {
  for (const JobState state : {JobState::kStopped, JobState::kFailed, JobState::kDone}) {
    coordinator_ = Coordinator(CoordinatorOptions{}, 0, Epoch{7, 1}, {ended("a", state, 5)});
    const Status refused = submit("b");
    ASSERT_EQ(code(refused), ErrorCode::kJobState);
    EXPECT_NE(refused.error().message.find("job remove a"), std::string::npos)
        << refused.error().message;
    ASSERT_TRUE(ask(RemoveJob{1, JobId("a")}));
    EXPECT_TRUE(submit("b"));
  }
}

}  // namespace
}  // namespace holdfast::daemon
