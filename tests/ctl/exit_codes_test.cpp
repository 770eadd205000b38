// What holdfastctl says and which code it exits with: docs/holdfastctl.md, docs/errors.md.
#include <gmock/gmock.h>

#include "tests/ctl/program.h"

namespace holdfast::test {
namespace {

using ::testing::HasSubstr;

class ExitCodesTest : public ::testing::Test {
 protected:
  Ended run(const std::vector<std::string>& arguments,
            const std::vector<std::string>& environment = {}) const {
    return Program("holdfastctl", arguments, folder_.path() / "output", environment).wait();
  }
  void expect(const std::vector<std::string>& arguments, int code, const std::string& says) const {
    const Ended ended = run(arguments);
    EXPECT_EQ(ended.code, code) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(says));
  }
  std::string at(const std::string& name) const { return (folder_.path() / name).string(); }

  Folder folder_;
};

TEST_F(ExitCodesTest, HelpAndVersionAreNoErrors) {
  expect({"--help"}, 0, "Exit codes: 0 done");
  expect({"job", "submit", "--help"}, 0, "--wait");
  expect({"--version"}, 0, "0.");
}

TEST_F(ExitCodesTest, TheCommandLineIsCheckedAndTheNearestCommandNamed) {
  expect({}, 2, "a command is missing");
  expect({"statu"}, 2, "there is no command statu, did you mean status?");
  expect({"job", "sumbit"}, 2, "there is no command job sumbit, did you mean job submit?");
  expect({"job"}, 2, "job: a command is missing");
  expect({"status", "-o", "yaml"}, 2, "table,json");
  expect({"job", "show"}, 2, "JOB is required");
  expect({"status", "extra"}, 2, "extra");
  expect({"playground", "--dir", at("p"), "--nodes", "0"}, 2, "nodes");
}

TEST_F(ExitCodesTest, ADaemonThatIsNotThereIsNamed) {
  expect({"status", "--socket", at("no.sock")}, 5, at("no.sock"));
  expect({"--socket", at("no.sock"), "job", "list"}, 5, "HF-704 peer_unreachable");
  const Ended by_environment = run({"node", "list"}, {"HOLDFAST_SOCKET=" + at("other.sock")});
  EXPECT_EQ(by_environment.code, 5);
  EXPECT_THAT(by_environment.output, HasSubstr(at("other.sock")));
}

TEST_F(ExitCodesTest, JobFilesAreCheckedBeforeAnythingIsSent) {
  const std::string socket = at("no.sock");
  expect({"job", "submit", at("none.toml"), "--socket", socket}, 2, "HF-104 config_missing");
  folder_.write("bad.toml", "stepz = 3\n");
  expect({"job", "submit", at("bad.toml"), "--socket", socket}, 2,
         "bad.toml:1: unknown key stepz, did you mean steps?");
  folder_.write("shape.toml", "[model]\nheads = 3\n");
  expect({"job", "submit", at("shape.toml"), "--socket", socket}, 2, "HF-105 model_shape");
  folder_.write("fine.toml", "steps = 3\n[data]\npath = \"none.tokens\"\n");
  expect({"job", "submit", at("fine.toml"), "--socket", socket}, 5, "HF-704 peer_unreachable");
}

TEST_F(ExitCodesTest, DataPrepareTellsWhatWasWrong) {
  expect({"data", "prepare", at("nowhere"), "--out", at("o")}, 3, "HF-201 data_missing");
  folder_.write("empty.txt", "");
  expect({"data", "prepare", at("empty.txt"), "--out", at("o")}, 2, "HF-202 data_empty");
  folder_.write("a.txt", "text");
  expect({"data", "prepare", at("a.txt"), "--out", at("o"), "--max-size", "5QB"}, 2, "5QB");
  expect({"data", "prepare", at("a.txt"), "--out", at("no/o")}, 1, "HF-901 file_io");
  expect({"data", "prepare", at("a.txt"), "--out", at("o"), "-o", "json"}, 0, "\"tokens\":5");
}

TEST_F(ExitCodesTest, APlaygroundThatIsNotThereIsNamed) {
  expect({"playground", "stop", "--dir", at("none")}, 1, "no playground in " + at("none"));
}

}  // namespace
}  // namespace holdfast::test
