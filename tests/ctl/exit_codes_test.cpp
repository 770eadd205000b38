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
  expect({"status", "--colour"}, 2, "holdfastctl: HF-106 usage: ");
}

TEST_F(ExitCodesTest, NumbersOutOfRangeAreRefused) {
  const std::string bad = "is not a whole number from ";
  for (const char* steps : {"0", "-1", "1.5", "many", "99999999999999999999"})
    expect({"job", "submit", at("f.toml"), "--steps", steps}, 2, std::string(steps) + " " + bad);
  expect({"events", "-n", "-1"}, 2, "HF-106 usage: ");
  expect({"events", "--limit=-1"}, 2, "-1 " + bad + "1 on");
  expect({"events", "--since=-1"}, 2, "-1 " + bad + "0 on");
  expect({"job", "steps", "tiny", "--from=-5"}, 2, "-5 " + bad);
  expect({"job", "logs", "tiny", "--lines=0"}, 2, "0 " + bad);
  expect({"playground", "--dir", at("p"), "--arena", "12"}, 2, "HF-103 config_value: --arena = 12");
  EXPECT_FALSE(std::filesystem::exists(at("p"))) << "nothing is made before the arguments are right";
}

TEST_F(ExitCodesTest, WordsThatAreNoJobNamesGoNowhere) {
  for (const char* verb : {"show", "stop", "resume", "remove", "steps", "logs"})
    for (const char* name : {"tiny/steps", "..", "a b", ""})
      expect({"job", verb, name, "--socket", at("no.sock")}, 2, "is no job name");
  expect({"job", "show", "tiny", "--socket", at("no.sock")}, 5, "HF-704");
}

TEST_F(ExitCodesTest, AnExportSaysItsFormatAndItsFolder) {
  expect({"snapshot", "export", "tiny", "--out", at("o")}, 2, "--format is required");
  expect({"snapshot", "export", "tiny", "--format", "hf"}, 2, "--out is required");
  expect({"snapshot", "export", "tiny", "--format", "gguf", "--out", at("o")}, 2, "{hf}");
  expect({"snapshot", "export", "tiny", "--format", "hf", "--out", at("o"), "--dtype", "fp8"}, 2,
         "float32,bf16");
  expect({"snapshot", "export", "a/b", "--format", "hf", "--out", at("o")}, 2, "is no job name");
  expect({"snapshot", "export", "tiny", "--format", "hf", "--out", at("o"), "--socket", at("no.sock")}, 5,
         "HF-704 peer_unreachable");
  EXPECT_FALSE(std::filesystem::exists(at("o")));
}

TEST_F(ExitCodesTest, AWhatIfNamesItsNodes) {
  expect({"what-if"}, 2, "--fail is required");
  for (const char* names : {"", ",", "node-1,", "node-1,,node-2", "a b", "node-1&limit=2"})
    expect({"what-if", "--fail", names, "--socket", at("no.sock")}, 2, "is no node's name");
  expect({"what-if", "--fail", "node-1", "-o", "svg"}, 2, "table,json");
  expect({"what-if", "--fail", "node-1,node-2", "--socket", at("no.sock")}, 5, "HF-704 peer_unreachable");
}

TEST_F(ExitCodesTest, AQuickstartNeedsANodeToLose) {
  const std::string one = folder_.write("one.toml", "pipelines = 1\n[snapshot]\nreplicas = 0\n").string();
  expect({"quickstart", "--dir", at("q"), "--job", one}, 2, "HF-103 config_value: pipelines = 1 in " + one);
  EXPECT_FALSE(std::filesystem::exists(at("q")));
  // The last --job counts: quickstart.sh gives one of its own first.
  expect({"quickstart", "--dir", at("q"), "--job", at("none.toml"), "--job", one}, 2, one);
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
  expect({"job", "submit", at("none.toml"), "--socket", socket}, 2, "HF-104 config_missing: there is no file " + at("none.toml"));
  folder_.write("bad.toml", "stepz = 3\n");
  expect({"job", "submit", at("bad.toml"), "--socket", socket}, 2,
         "bad.toml:1: unknown key stepz, did you mean steps?");
  folder_.write("shape.toml", "[model]\nheads = 3\n");
  expect({"job", "submit", at("shape.toml"), "--socket", socket}, 2, "HF-105 model_shape");
  folder_.write("nodata.toml", "steps = 3\n");
  expect({"job", "submit", at("nodata.toml"), "--socket", socket}, 2,
         "HF-104 config_missing: data.path is missing: give it in FILE or with --data");
  expect({"job", "submit", at("nodata.toml"), "--data", "x", "--socket", socket}, 5, "HF-704");
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
  expect({"playground", "stop", "--dir", at("none")}, 3, "HF-907 not_found: no playground in " + at("none"));
}

}  // namespace
}  // namespace holdfast::test
