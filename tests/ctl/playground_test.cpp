// Whom a playground takes for its workers: what it ends must be its own.
#include "ctl/playground/playground.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

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
TEST_F(PlaygroundTest, AWorkerIsWhoHoldsThePageNotWhoseNumberStandsInIt) {
  PlaygroundOptions options;
  options.directory = folder_ / "playground";
  options.nodes = 1;
  options.programs = folder_;
  auto playground = Playground::create(options, true);
  ASSERT_TRUE(playground) << playground.error().to_string();
  const fs::path page_file = options.directory / "node-0" / "state" / "worker-0.progress";

  fs::copy_file("/bin/sleep", folder_ / "holdfast-worker");
  const auto stranger = start_process({folder_ / "holdfast-worker", {"60"}, {}, "/dev/null"});
  ASSERT_TRUE(stranger) << stranger.error().to_string();
  auto page = train::ProgressPage::open(page_file);
  ASSERT_TRUE(page) << page.error().to_string();
  (*page)->record().pid.store(*stranger);
  EXPECT_EQ(*playground->worker_pid("node-0"), std::nullopt);
  EXPECT_TRUE(playground->kill_node("node-0"));
  EXPECT_EQ(::waitpid(*stranger, nullptr, WNOHANG), 0) << "it lives";

  int claimed[2];
  ASSERT_EQ(::pipe(claimed), 0);
  const pid_t worker = ::fork();
  if (worker == 0) {
    const auto own = train::ProgressPage::open(page_file);
    if (!own || !(*own)->claim() || ::write(claimed[1], "c", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(claimed[0], &byte, 1), 1);
  EXPECT_EQ(*playground->worker_pid("node-0"), worker);
  EXPECT_TRUE(playground->kill_node("node-0"));
  EXPECT_TRUE(wait_gone(worker, 5'000));
  EXPECT_EQ(::waitpid(*stranger, nullptr, WNOHANG), 0) << "it lives";

  ::kill(*stranger, SIGKILL);
  ::waitpid(*stranger, nullptr, 0);
  for (const int fd : claimed) ::close(fd);
}

}  // namespace
}  // namespace holdfast::ctl
