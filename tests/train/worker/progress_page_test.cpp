#include "train/worker/progress_page.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace holdfast::train {
namespace {

class ProgressPages : public ::testing::Test {
 protected:
  ProgressPages() : path_(::testing::TempDir() + "page-" + std::to_string(::getpid())) {}
  ~ProgressPages() override { std::filesystem::remove(path_); }
  const std::filesystem::path path_;
};

TEST_F(ProgressPages, BothEndsSeeOneRecord) {
  auto worker = ProgressPage::open(path_);
  ASSERT_TRUE(worker) << worker.error().to_string();
  ASSERT_TRUE((*worker)->claim());
  (*worker)->record().counter.fetch_add(5);
  auto daemon = ProgressPage::open(path_);
  ASSERT_TRUE(daemon);
  EXPECT_EQ((*daemon)->record().magic.load(), kProgressMagic);
  EXPECT_EQ((*daemon)->record().counter.load(), 5u);
  EXPECT_EQ((*daemon)->record().pid.load(), ::getpid());
}

TEST_F(ProgressPages, TheOwnerIsKnownWhileItLivesAndNotAfter) {
  int ready[2], leave[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(leave), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto page = ProgressPage::open(path_);
    char byte = page && (*page)->claim() ? 'y' : 'n';
    if (::write(ready[1], &byte, 1) != 1 || ::read(leave[0], &byte, 1) != 1) ::_exit(1);
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ASSERT_EQ(byte, 'y');
  auto page = ProgressPage::open(path_);
  ASSERT_TRUE(page);
  EXPECT_EQ((*page)->owner(), child);
  const Status second = (*page)->claim();  // never two workers in one slot
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kProcess);
  EXPECT_NE(second.error().message.find(std::to_string(child)), std::string::npos);
  ASSERT_EQ(::write(leave[1], &byte, 1), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ((*page)->owner(), std::nullopt);
  EXPECT_TRUE((*page)->claim());
  for (const int fd : {ready[0], ready[1], leave[0], leave[1]}) ::close(fd);
}

TEST_F(ProgressPages, APathThatCannotBeOpenedIsNamed) {
  const auto page = ProgressPage::open("/nonexistent/worker-0.progress");
  ASSERT_FALSE(page);
  EXPECT_EQ(page.error().code, ErrorCode::kFileIo);
  EXPECT_NE(page.error().message.find("/nonexistent/worker-0.progress"), std::string::npos);
}

}  // namespace
}  // namespace holdfast::train
