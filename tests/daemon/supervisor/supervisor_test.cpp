// Workers' processes: how each end is told, and that a wanted worker is started again. The programs
// are shell scripts; what real workers do is the chaos tests' part.
#include "daemon/supervisor/supervisor.h"

#include <gmock/gmock.h>
#include <signal.h>

#include <fstream>

#include "tests/daemon/http/loop_help.h"

namespace holdfast::daemon {
namespace {

using ::testing::HasSubstr;
using Cause = WorkerEnd::Cause;

class SupervisorTest : public ::testing::Test {
 protected:
  std::filesystem::path script(const std::string& body) {
    const std::filesystem::path path = folder_.path() / "worker.sh";
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  SupervisorOptions options(const std::filesystem::path& program) const {
    SupervisorOptions o;
    o.state_dir = folder_.path();
    o.program = program;
    o.restart_backoff_ms = 1;
    o.stop_timeout_ms = 300;
    return o;
  }
  void start(const SupervisorOptions& options) {
    auto made = Supervisor::create(
        io_, options,
        {[](uint32_t, const train::Hello&) {}, [](uint32_t, const train::FromWorker&) {},
         [this](uint32_t, const WorkerEnd& end) { ends_.push_back(end); },
         [this](uint32_t, const std::string& text) { notes_ += text + "\n"; }},
        clock_);
    ASSERT_TRUE(made) << made.error().to_string();
    supervisor_ = std::move(*made);
  }
  bool wait_for_ends(size_t count) {
    return test::run_until(io_, [&] { return ends_.size() >= count; });
  }
  bool gone(int64_t pid) const { return ::kill(static_cast<pid_t>(pid), 0) != 0; }

  test::TemporaryFolder folder_;
  boost::asio::io_context io_;
  SystemClock clock_;
  std::vector<WorkerEnd> ends_;
  std::string notes_;
  std::unique_ptr<Supervisor> supervisor_;
};

TEST_F(SupervisorTest, AWorkerThatExitsIsStartedAgain) {
  start(options(script("exit 3")));
  supervisor_->ensure_worker(0);
  ASSERT_TRUE(wait_for_ends(3));
  for (const WorkerEnd& end : ends_) {
    EXPECT_EQ(end.cause, Cause::kExited);
    EXPECT_THAT(end.text, HasSubstr("exit status 3"));
    EXPECT_TRUE(gone(end.pid)) << "reaped";
  }
  EXPECT_NE(ends_[0].pid, ends_[1].pid);
  EXPECT_GE(supervisor_->status(0).restarts, 2u);
}

TEST_F(SupervisorTest, AProgramThatCannotBeStartedIsNamed) {
  start(options(folder_.path() / "no-such-program"));
  supervisor_->ensure_worker(0);
  ASSERT_TRUE(wait_for_ends(1));
  EXPECT_EQ(ends_[0].cause, Cause::kNotStarted);
  EXPECT_THAT(ends_[0].text, HasSubstr("no-such-program"));
}

TEST_F(SupervisorTest, AWorkerThatNeverConnectsIsKilled) {
  SupervisorOptions o = options(script("exec sleep 60"));
  o.start_timeout_ms = 50;
  start(o);
  supervisor_->ensure_worker(0);
  ASSERT_TRUE(wait_for_ends(1));
  EXPECT_EQ(ends_[0].cause, Cause::kUnreachable);
  EXPECT_TRUE(gone(ends_[0].pid));
  supervisor_->stop_worker(0);
}

TEST_F(SupervisorTest, StopAsksFirstAndStartsNothingAfterwards) {
  start(options(script("exec sleep 60")));
  supervisor_->ensure_worker(0);
  const int64_t pid = supervisor_->status(0).pid;
  ASSERT_GT(pid, 0);
  supervisor_->stop_worker(0);
  ASSERT_TRUE(wait_for_ends(1));
  EXPECT_EQ(ends_[0].cause, Cause::kStopped);
  EXPECT_EQ(ends_[0].pid, pid);
  EXPECT_THAT(ends_[0].text, HasSubstr("signal 15"));
  EXPECT_EQ(supervisor_->status(0).pid, 0);
  test::run_ready(io_);
  EXPECT_EQ(supervisor_->status(0).pid, 0);
}

TEST_F(SupervisorTest, AWorkerThatIgnoresTheStopIsKilled) {
  start(options(script("trap '' TERM; : > \"$2/ready\"; while :; do sleep 0.05; done")));
  supervisor_->ensure_worker(0);
  const auto deadline = std::chrono::steady_clock::now() + test::kWaitLimit;
  while (!std::filesystem::exists(folder_.path() / "ready"))
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
  supervisor_->stop_worker(0);
  ASSERT_TRUE(wait_for_ends(1));
  EXPECT_EQ(ends_[0].cause, Cause::kStopped);
  EXPECT_THAT(ends_[0].text, HasSubstr("signal 9"));
}

TEST_F(SupervisorTest, KillTellsWhyAndTheNextOneStarts) {
  start(options(script("exec sleep 60")));
  supervisor_->ensure_worker(0);
  const int64_t pid = supervisor_->status(0).pid;
  supervisor_->kill_worker(0, "it works for another job");
  ASSERT_TRUE(wait_for_ends(1));
  EXPECT_EQ(ends_[0].cause, Cause::kKilled);
  EXPECT_THAT(ends_[0].text, HasSubstr("it works for another job"));
  ASSERT_TRUE(test::run_until(io_, [&] { return supervisor_->status(0).pid != 0; }));
  EXPECT_NE(supervisor_->status(0).pid, pid);
  supervisor_->stop_worker(0);
  ASSERT_TRUE(wait_for_ends(2));
}

TEST_F(SupervisorTest, AProgramThatIsMissingAfterAStopIsTriedAgainWithBackoff) {
  SupervisorOptions o = options(script("exec sleep 60"));
  o.restart_backoff_ms = 60'000;
  start(o);
  supervisor_->ensure_worker(0);
  supervisor_->stop_worker(0);
  ASSERT_TRUE(wait_for_ends(1));
  EXPECT_EQ(ends_[0].cause, Cause::kStopped);
  std::filesystem::remove(folder_.path() / "worker.sh");
  supervisor_->ensure_worker(0);
  ASSERT_TRUE(wait_for_ends(2));
  EXPECT_EQ(ends_[1].cause, Cause::kNotStarted);
  EXPECT_FALSE(test::run_until(
      io_, [&] { return ends_.size() > 2; }, std::chrono::milliseconds(20)));
}

TEST_F(SupervisorTest, TwoDaemonsCannotServeOneStateFolder) {
  start(options(script("exit 0")));
  const auto second = Supervisor::create(io_, options("/bin/true"), {}, clock_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse) << second.error().to_string();
  EXPECT_THAT(second.error().message, HasSubstr("worker.sock"));
}

}  // namespace
}  // namespace holdfast::daemon
