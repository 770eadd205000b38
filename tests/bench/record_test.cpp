// What benchmarks put on record, and what they refuse before they measure.
#include "bench/record.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "bench/restart_model.h"

namespace holdfast::bench {
namespace {

namespace fs = std::filesystem;

class ResultFile : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  static std::string text_of(const fs::path& file) {
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    return text.str();
  }
  const fs::path folder_ =
      fs::temp_directory_path() / ("holdfast-record-test-" + std::to_string(getpid()));
};

TEST_F(ResultFile, IsReplacedOnlyWhenThereIsAResult) {
  const fs::path file = folder_ / "a.json";
  ASSERT_TRUE(can_write(file));
  ASSERT_TRUE(write_result(file, "a longer result"));
  ASSERT_TRUE(can_write(file));
  EXPECT_EQ(text_of(file), "a longer result");
  ASSERT_TRUE(write_result(file, "another"));
  EXPECT_EQ(text_of(file), "another");
}

TEST_F(ResultFile, ThatCannotBeWrittenIsAnError) {
  for (const fs::path& file : {folder_ / "none" / "a.json", folder_}) {
    const Status ready = can_write(file);
    ASSERT_FALSE(ready) << file;
    EXPECT_EQ(ready.error().code, ErrorCode::kFileIo);
    EXPECT_NE(ready.error().to_string().find(file.string()), std::string::npos);
    EXPECT_FALSE(write_result(file, "a result")) << file;
  }
}

TEST_F(ResultFile, OnAFullDeviceIsAnErrorAndTheResultIsPrinted) {
  ASSERT_TRUE(can_write("/dev/full"));
  testing::internal::CaptureStderr();
  const Status written = write_result("/dev/full", "a result");
  const std::string printed = testing::internal::GetCapturedStderr();
  EXPECT_FALSE(written);
  EXPECT_EQ(printed, "a result\n");
}

TEST_F(ResultFile, MayBeNone) {
  EXPECT_TRUE(can_write({}));
  EXPECT_TRUE(write_result({}, "a result"));
}

TEST(Commit, IsHexadecimal) {
  for (const char* text : {"fabeefe", "c92e2b5a1c92e2b5a1c92e2b5a1c92e2b5a1c92e"}) {
    EXPECT_TRUE(is_commit(text)) << text;
    EXPECT_EQ(commit_complaint(text), "");
  }
  for (const char* text : {"", "unknown", "gpustages", "c92e2b", "C92E2B5", "c92e2b5 ",
                           "c92e2b5a1c92e2b5a1c92e2b5a1c92e2b5a1c92e0"}) {
    EXPECT_FALSE(is_commit(text)) << text;
    EXPECT_NE(commit_complaint(text), "");
  }
}

TEST(Processor, IsTheFirstModelName) {
  EXPECT_EQ(processor_of("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9354 \nmodel name\t: B\n"),
            "AMD EPYC 9354");
  EXPECT_EQ(processor_of("processor\t: 0\nCPU part\t: 0xd4f\n"), "");
  EXPECT_EQ(processor_of("model name\t:\nmodel name"), "");
  EXPECT_EQ(processor_of(""), "");
}

TEST(Scheduling, HasANameForEveryPolicy) {
  EXPECT_EQ(scheduling_of(SCHED_OTHER), "other");
  EXPECT_EQ(scheduling_of(SCHED_FIFO), "fifo");
  EXPECT_EQ(scheduling_of(SCHED_RR), "rr");
  EXPECT_EQ(scheduling_of(SCHED_RR | SCHED_RESET_ON_FORK), "rr");
  EXPECT_EQ(scheduling_of(99), "policy 99");
  EXPECT_EQ(scheduling_of(-1), "");
}

TEST(Origin, NamesTheCommitOnlyWhenItIsKnown) {
  EXPECT_TRUE(origin("").at("commit").is_null());
  EXPECT_EQ(origin("fabeefe").at("commit").as_string(), "fabeefe");
  EXPECT_EQ(origin("").at("scheduling").as_string(), scheduling_of(sched_getscheduler(0)));
  EXPECT_TRUE(origin("").contains("processor"));
}

TEST(RestartModel, CountsWhatAFailureCosts) {
  const RestartModel model{600, 120, 3600};
  EXPECT_DOUBLE_EQ(model.lost_seconds(), 420);
  EXPECT_DOUBLE_EQ(model.step_ms(1000), 1000 / (1 - 420.0 / 3600));
}

TEST(RestartModel, IsRefusedWhenFailuresLeaveNoTimeForSteps) {
  for (const RestartModel& model :
       {RestartModel{600, 120, 3600}, RestartModel{600, 120, 420.1}, RestartModel{0, 0, 1}})
    EXPECT_TRUE(check_restart_model(model)) << model.failure_seconds;
  for (const RestartModel& model :
       {RestartModel{600, 120, 420}, RestartModel{600, 120, 100}, RestartModel{600, 120, 0},
        RestartModel{600, 120, -1}, RestartModel{600, 120, NAN}, RestartModel{600, 120, INFINITY},
        RestartModel{NAN, 120, 3600}, RestartModel{600, NAN, 3600}, RestartModel{-600, 120, 3600},
        RestartModel{600, -120, 3600}, RestartModel{0, 0, 0}}) {
    const Status status = check_restart_model(model);
    ASSERT_FALSE(status) << model.checkpoint_seconds << " " << model.failure_seconds;
    EXPECT_EQ(status.error().code, ErrorCode::kUsage);
  }
}

}  // namespace
}  // namespace holdfast::bench
