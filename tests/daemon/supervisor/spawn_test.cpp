#include "daemon/supervisor/spawn.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace holdfast::daemon {
namespace {

using testing::Contains;
using testing::Not;
using testing::StartsWith;

std::vector<std::string> environment(std::vector<std::string> own, const std::string& fault,
                                     bool amx) {
  std::vector<char*> entries;
  for (std::string& text : own) entries.push_back(text.data());
  entries.push_back(nullptr);
  return worker_environment(entries.data(), fault, amx);
}

TEST(WorkerEnvironment, LeavesOutWhatIsMeantForTheDaemon) {
  const auto all = environment({"HOLDFAST_FAULT=node.restore:exit", "NOTIFY_SOCKET=/run/n", "HOME=/root",
                                "OPENBLAS_NUM_THREADS=8"},
                               "worker.step:exit", false);
  EXPECT_THAT(all, testing::UnorderedElementsAre("HOME=/root", "OPENBLAS_NUM_THREADS=1",
                                                 "HOLDFAST_FAULT=worker.step:exit"));
}

TEST(WorkerEnvironment, ChoosesOpenBlasKernelsWhereItsOwnChoiceIsSlow) {
  EXPECT_THAT(environment({}, "", true), Contains("OPENBLAS_CORETYPE=SkylakeX"));
  EXPECT_THAT(environment({}, "", false), Not(Contains(StartsWith("OPENBLAS_CORETYPE="))));
  const auto chosen = environment({"OPENBLAS_CORETYPE=Haswell"}, "", true);
  EXPECT_THAT(chosen, Contains("OPENBLAS_CORETYPE=Haswell"));
  EXPECT_THAT(chosen, Not(Contains("OPENBLAS_CORETYPE=SkylakeX"))) << "the person's choice counts";
}

}  // namespace
}  // namespace holdfast::daemon
