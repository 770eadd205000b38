// Workers' processes: how each end is told, and that a wanted worker is started again. The programs
// are shell scripts; what real workers do is the chaos tests' part.
#include "daemon/supervisor/supervisor.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "tests/daemon/http/loop_help.h"
#include "train/worker/progress_page.h"

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
    auto made =
        Supervisor::create(io_, options,
                           {[this](uint32_t, const train::Hello&) { ++ups_; },
                            [this](uint32_t, const train::FromWorker& m) { heard(m); },
                            [this](uint32_t, const std::string& why) { dying_.push_back(why); },
                            [this](uint32_t, const WorkerEnd& end) { ends_.push_back(end); },
                            [this](uint32_t, const std::string& text) { notes_ += text + "\n"; }},
                           clock_);
    ASSERT_TRUE(made) << made.error().to_string();
    supervisor_ = std::move(*made);
  }
  void heard(const train::FromWorker& message) {
    const auto* fatal = std::get_if<train::Fatal>(&message);
    heard_.push_back(fmt::format(
        "{} after {} ends",
        fatal ? std::string(error_row(fatal->error.code).name) : "another message", ends_.size()));
  }
  bool wait_for_ends(size_t count) {
    return test::run_until(io_, [&] { return ends_.size() >= count; });
  }
  bool gone(int64_t pid) const { return ::kill(static_cast<pid_t>(pid), 0) != 0; }

  test::TemporaryFolder folder_;
  boost::asio::io_context io_;
  SystemClock clock_;
  int ups_ = 0;
  std::vector<WorkerEnd> ends_;
  std::vector<std::string> heard_, dying_;
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

void say(int fd, const train::FromWorker& message) {
  const std::string text = train::encode(message);
  const auto size = static_cast<uint32_t>(text.size());
  if (::write(fd, &size, sizeof size) != sizeof size ||
      ::write(fd, text.data(), size) != static_cast<ssize_t>(size))
    ::_exit(1);
}

// A worker of an earlier daemon process: has the slot's page, connects and says Hello when it reads
// a byte; at the next one it says why it ends, and ends or, for an 's', takes long to end: until it
// reads a third.
pid_t start_survivor(const std::filesystem::path& folder, int go_on, int said) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  char byte = 0;
  const auto page = train::ProgressPage::open(folder / "worker-0.progress");
  if (!page || !(*page)->claim() || ::write(said, "p", 1) != 1) ::_exit(1);
  if (::read(go_on, &byte, 1) != 1) ::_exit(1);
  train::Hello hello;
  hello.link_version = train::kWorkerLinkVersion;
  hello.pid = ::getpid();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (folder / "worker.sock").string().copy(address.sun_path, sizeof address.sun_path - 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(1);
  say(fd, hello);
  if (::write(said, "h", 1) != 1 || ::read(go_on, &byte, 1) != 1) ::_exit(1);
  if (byte == 's') {
    // Its main thread has ended, as the kernel sees it, and the process is still there.
    std::thread([go_on] {
      char more = 0;
      ::_exit(::read(go_on, &more, 1) == 1 ? 0 : 1);
    }).detach();
    ::syscall(SYS_exit, 0);
  }
  // More than is read at a time: the end of the process is seen before the end of this.
  say(fd, train::Fatal{{}, {ErrorCode::kDataMissing, std::string(150'000, 'x')}});
  ::_exit(0);
}

// A survivor and the supervisor that finds it and can start no other.
class SurvivorTest : public SupervisorTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(::pipe(go_on), 0);
    ASSERT_EQ(::pipe(said), 0);
    pid = start_survivor(folder_.path(), go_on[0], said[1]);
    ::close(std::exchange(said[1], -1));
    ASSERT_EQ(::read(said[0], &byte, 1), 1);
    SupervisorOptions o = options(folder_.path() / "no-such-program");
    o.restart_backoff_ms = 60'000;
    start(o);
  }
  ~SurvivorTest() override {
    if (pid > 0) {
      ::kill(pid, SIGKILL);  // not reaped yet, so it is nobody else's number
      ::waitpid(pid, nullptr, 0);
    }
    for (const int fd : {go_on[0], go_on[1], said[0], said[1]})
      if (fd >= 0) ::close(fd);
  }

  int go_on[2] = {-1, -1}, said[2] = {-1, -1};
  pid_t pid = -1;
  char byte = 0;
};

// Its words wait in the socket while it is killed: nobody is told of a worker that is gone.
TEST_F(SurvivorTest, AWorkerThatWasKilledIsNotAdopted) {
  ASSERT_EQ(supervisor_->survivor(0), pid);
  supervisor_->ensure_worker(0);
  ASSERT_EQ(::write(go_on[1], "c", 1), 1);
  ASSERT_EQ(::read(said[0], &byte, 1), 1);
  supervisor_->kill_worker(0, "the arena is another than the one it has");
  ASSERT_TRUE(wait_for_ends(1));
  test::run_ready(io_);
  EXPECT_EQ(ups_, 0);
  EXPECT_EQ(ends_[0].cause, Cause::kKilled);
  EXPECT_EQ(ends_[0].pid, pid);
}

TEST_F(SurvivorTest, WhatAWorkerSaidBeforeItEndedIsHeardBeforeItsEnd) {
  supervisor_->ensure_worker(0);
  ASSERT_EQ(::write(go_on[1], "c", 1), 1);
  ASSERT_TRUE(test::run_until(io_, [&] { return ups_ == 1; }));
  ASSERT_EQ(::write(go_on[1], "f", 1), 1);
  siginfo_t ended{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOWAIT), 0);
  ASSERT_TRUE(wait_for_ends(1));
  EXPECT_EQ(heard_, std::vector<std::string>{"data_missing after 0 ends"});
  EXPECT_EQ(ends_[0].pid, pid);
}

TEST_F(SurvivorTest, AProcessThatTakesLongToEndIsToldOfBeforeItIsGone) {
  supervisor_->ensure_worker(0);
  ASSERT_EQ(::write(go_on[1], "c", 1), 1);
  ASSERT_TRUE(test::run_until(io_, [&] { return ups_ == 1; }));
  EXPECT_TRUE(dying_.empty());
  ASSERT_EQ(::write(go_on[1], "s", 1), 1);
  ASSERT_TRUE(test::run_until(io_, [&] { return dying_.size() == 1; }));
  EXPECT_TRUE(ends_.empty());
  EXPECT_EQ(supervisor_->status(0).pid, pid);
  ASSERT_EQ(::write(go_on[1], "e", 1), 1);
  ASSERT_TRUE(wait_for_ends(1));
  EXPECT_EQ(dying_.size(), 1u);
  EXPECT_EQ(ends_[0].pid, pid);
}

int connect_to(const std::filesystem::path& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (folder / "worker.sock").string().copy(address.sun_path, sizeof address.sun_path - 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

TEST_F(SupervisorTest, ThoseThatSayNothingDoNotLockWorkersOut) {
  SupervisorOptions o = options("/bin/true");
  o.hello_timeout_ms = 50;
  start(o);
  std::vector<int> connections;
  for (int i = 0; i < 64; ++i) {
    connections.push_back(connect_to(folder_.path()));
    test::run_ready(io_);
  }
  ASSERT_TRUE(test::run_until(
      io_, [&] { return notes_.find("said nothing for 50 ms") != std::string::npos; }));
  test::run_ready(io_);
  connections.push_back(connect_to(folder_.path()));
  say(connections.back(), train::Fatal{});
  EXPECT_TRUE(test::run_until(
      io_, [&] { return notes_.find("did not begin with Hello") != std::string::npos; }));
  for (const int fd : connections) ::close(fd);
}

// The connection waits in the backlog; the loop may not spin until it can be taken.
TEST_F(SupervisorTest, WithoutDescriptorsItWaitsAndThenAccepts) {
  start(options("/bin/true"));
  test::run_ready(io_);
  const int client = connect_to(folder_.path());
  say(client, train::Fatal{});
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  rlimit none = limit;
  none.rlim_cur = 0;  // for new descriptors; those that are open stay
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  size_t handlers = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(350);
  while (std::chrono::steady_clock::now() < until) handlers += io_.run_one_until(until);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_GE(handlers, 2u);
  EXPECT_LE(handlers, 12u);
  EXPECT_TRUE(test::run_until(
      io_, [&] { return notes_.find("did not begin with Hello") != std::string::npos; }));
  ::close(client);
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
