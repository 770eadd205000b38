// Whom a playground takes for its workers: what it ends must be its own.
#include "ctl/playground/playground.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <thread>

#include "ctl/playground/process.h"
#include "train/worker/progress_page.h"

namespace holdfast::ctl {
namespace {

namespace fs = std::filesystem;

class PlaygroundTest : public ::testing::Test {
 protected:
  PlaygroundTest() {
    std::string name = (fs::temp_directory_path() / "holdfast-playground-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~PlaygroundTest() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  fs::path folder_;
};

// Another playground's worker was given the pid that a page of ours still names.
TEST_F(PlaygroundTest, AWorkerIsWhoWasStartedForItsNodeNotWhoseNumberStandsInAPage) {
  PlaygroundOptions options;
  options.directory = folder_ / "playground";
  options.nodes = 1;
  options.programs = folder_;
  auto playground = Playground::create(options, true);
  ASSERT_TRUE(playground) << playground.error().to_string();
  const fs::path state = options.directory / "node-0" / "state";
  const fs::path program = folder_ / "holdfast-worker";
  std::ofstream(program) << "#!/bin/sh\nwhile :; do sleep 1; done\n";
  fs::permissions(program, fs::perms::owner_all);
  const auto start = [&](const fs::path& of) {
    const auto pid =
        start_process({program, {"--state-dir", of.string(), "--slot", "0"}, {}, "/dev/null"});
    EXPECT_TRUE(pid) << pid.error().to_string();
    if (!pid) return pid_t{0};
    // It is started a little before it can be seen under its name and with its arguments.
    const auto seen = [&] {
      const auto found = processes_with("holdfast-worker", {"--state-dir", of.string()});
      return std::find(found.begin(), found.end(), *pid) != found.end();
    };
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!seen() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_TRUE(seen());
    return *pid;
  };

  const pid_t stranger = start(folder_ / "another" / "state");
  auto page = train::ProgressPage::open(state / "worker-0.progress");
  ASSERT_TRUE(page) << page.error().to_string();
  (*page)->record().pid.store(stranger);
  EXPECT_EQ(*playground->worker_pid("node-0"), std::nullopt);
  EXPECT_TRUE(playground->kill_node("node-0"));
  EXPECT_EQ(::waitpid(stranger, nullptr, WNOHANG), 0) << "it lives";

  const pid_t worker = start(state);
  EXPECT_EQ(*playground->worker_pid("node-0"), worker);
  EXPECT_TRUE(playground->kill_node("node-0"));
  EXPECT_FALSE(process_runs(worker, "holdfast-worker"));
  EXPECT_EQ(::waitpid(stranger, nullptr, WNOHANG), 0) << "it lives";
  for (const pid_t pid : {stranger, worker}) {
    if (pid > 0) ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
}

}  // namespace
}  // namespace holdfast::ctl
