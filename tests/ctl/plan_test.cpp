// `holdfastctl plan`: its four outputs, and what it says to arguments that cannot be.
#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <map>
#include <set>
#include <sstream>

#include "base/json.h"
#include "tests/ctl/program.h"
#include "train/schedule/exact.h"
#include "train/schedule/text.h"
#include "train/schedule/validate.h"

namespace holdfast::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class PlanCommandTest : public ::testing::Test {
 protected:
  Ended run(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"plan"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Program("holdfastctl", arguments, folder_.path() / "output").wait();
  }
  // D = 3, S = 4, M = 6.
  Ended example(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"--pipelines",     "3", "--stages", "4",
                                          "--micro-batches", "6"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  boost::json::value json(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = more;
    arguments.insert(arguments.end(), {"-o", "json"});
    const Ended ended = example(arguments);
    EXPECT_EQ(ended.code, 0) << ended.output;
    const auto value = parse_json(ended.output, "plan");
    EXPECT_TRUE(value) << ended.output;
    return value ? *value : boost::json::value();
  }
  void refused(const std::vector<std::string>& more, int code, const std::string& says) const {
    const Ended ended = example(more);
    EXPECT_EQ(ended.code, code) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(says));
  }

  Folder folder_;
};

double number(const boost::json::value& body, const char* name) {
  return body.at(name).to_number<double>();
}

TEST_F(PlanCommandTest, JsonHasTheFiguresOfThePapers) {
  struct Row {
    std::vector<std::string> arguments;
    double makespan, period;
  };
  const std::vector<Row> rows = {
      {{"--policy", "1f1b"}, 27, 27},
      {{"--policy", "reroute", "--fail", "1:2", "--caps", "4,3,2,1"}, 36, 36},
      {{"--policy", "reroute", "--fail", "1:2", "--caps", "4"}, 33, 33},
      {{"--policy", "split", "--fail", "1:2", "--caps", "6"}, 29, 29},
      {{"--policy", "staggered", "--fail", "1:2", "--caps", "6"}, 29, 27},
      {{"--fail", "0:1,1:2", "--caps", "6"}, 29, 27},
      {{"--fail", "0:2,1:2", "--caps", "6"}, 56, 54},
  };
  for (const Row& row : rows) {
    const boost::json::value body = json(row.arguments);
    EXPECT_LE(number(body, "makespan"), row.makespan);
    EXPECT_LE(number(body, "period"), row.period);
    EXPECT_GE(number(body, "period"), number(body, "lower_bound"));
    EXPECT_GE(number(body, "makespan"), number(body, "makespan_lower_bound"));
    EXPECT_LE(number(body, "peak_micro_batches"), 6);
  }
  const boost::json::value piled =
      json({"--fail", "0:2,1:2", "--caps", "6", "--stage-bytes", "1GiB"});
  const auto& proposals = piled.at("proposals").as_array();
  ASSERT_EQ(proposals.size(), 1u);
  EXPECT_EQ(number(proposals[0], "after"), 27);
  EXPECT_EQ(number(proposals[0], "bytes"), 1 << 30);
  EXPECT_EQ(proposals[0].at("moves").at(0).at("to").as_string(), "0:2");
}

// The rounds of the JSON are a plan, and take the time that it says.
TEST_F(PlanCommandTest, JsonRoundsAreTheWholePlan) {
  const boost::json::value body = json({"--fail", "1:2", "--caps", "6"});
  std::string text = "plan pipelines 3 micro-batches 6\n";
  double end = 0;
  for (const boost::json::value& stage : body.at("rounds").as_array()) {
    text += "stage " + boost::json::serialize(stage.at("stage")) + " lanes";
    for (const auto& lane : stage.at("lanes").as_array())
      text += " " + boost::json::serialize(lane);
    text += ":";
    for (const auto& round : stage.at("rounds").as_array()) {
      text += (text.back() == ':' ? " " : " | ") + std::string(round.at("cells").as_string());
      end = std::max(end, number(round, "start") + number(round, "duration"));
    }
    text += "\n";
  }
  const auto plan = train::parse_plan(text);
  ASSERT_TRUE(plan) << plan.error().to_string();
  train::Problem problem = train::uniform_problem(3, 4, 6);
  ASSERT_TRUE(train::remove_lane(problem, 1, 2));
  EXPECT_THAT(train::validate(problem, *plan), ::testing::IsEmpty());
  EXPECT_EQ(end, number(body, "makespan"));
}

TEST_F(PlanCommandTest, ATableFitsATerminal) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--pipelines", "3", "--stages", "4", "--micro-batches", "6",
                                 "--fail", "0:2,1:2", "--stage-bytes", "20GiB"},
        {"--pipelines", "32", "--stages", "16", "--micro-batches", "64", "--fail",
         "0:0,1:1,2:2,3:3,4:4,5:5,6:6,7:7,8:8,9:9,10:10,11:11,12:12,13:13,14:14,15:15,16:0,17:0"},
        {"--pipelines", "2", "--stages", "3", "--micro-batches", "5", "--costs",
         "1234.5,0.37,9.1,0.25,3"}}) {
    const Ended ended = run(arguments);
    ASSERT_EQ(ended.code, 0) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr("steady period"));
    std::istringstream lines(ended.output);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
  }
  const Ended ended = example({"--fail", "0:2,1:2", "--caps", "6"});
  EXPECT_THAT(ended.output, HasSubstr("2 dead: 0:2 1:2"));
  EXPECT_THAT(ended.output, HasSubstr("27 instead of 54"));
  EXPECT_THAT(ended.output, HasSubstr("\n    2:2  ..F"));
  EXPECT_THAT(ended.output, Not(HasSubstr("\n    1:2  ")));
}

TEST_F(PlanCommandTest, TheTraceHasEveryPieceOfWork) {
  const Ended ended = example({"--fail", "1:2", "--costs", "1,1,1,0,2", "-o", "trace"});
  ASSERT_EQ(ended.code, 0);
  const auto body = parse_json(ended.output, "trace");
  ASSERT_TRUE(body);
  std::map<std::string, int> slices;
  std::set<std::string> lanes;
  for (const auto& event : body->at("traceEvents").as_array()) {
    if (event.at("ph").as_string() == "X") ++slices[std::string(event.at("cat").as_string())];
    if (event.at("name").as_string() == "thread_name")
      lanes.insert(std::string(event.at("args").at("name").as_string()));
  }
  EXPECT_EQ(lanes.size(), 11u);
  EXPECT_TRUE(lanes.contains("lane 2:3"));
  EXPECT_EQ(slices["update"], 11);
  EXPECT_GE(slices["F"], 4 * 18);
  EXPECT_GE(slices["I"], 4 * 18);
  EXPECT_GE(slices["W"], 4 * 18);
}

TEST_F(PlanCommandTest, TheChartNamesItsLanesAndColours) {
  const Ended ended = example({"--fail", "1:2", "--costs", "1,1,1,0,1", "-o", "svg"});
  ASSERT_EQ(ended.code, 0);
  EXPECT_TRUE(ended.output.starts_with("<svg xmlns=")) << ended.output.substr(0, 80);
  EXPECT_TRUE(ended.output.ends_with("</svg>\n"));
  for (const char* says : {">0:2<", ">2:2<", "F forward", "W weight gradient", ">update<",
                           "dead: 1:2", "steady period", ">time<"})
    EXPECT_THAT(ended.output, HasSubstr(says));
  EXPECT_THAT(ended.output, Not(HasSubstr(">1:2<"))) << "a dead lane has no row";
}

TEST_F(PlanCommandTest, StagesMayDiffer) {
  const boost::json::value body =
      json({"--costs", "1,1,1/1,1,1/2,2,2,0,1/1,1,1", "--caps", "8", "--expert-share", "0.5"});
  EXPECT_GE(number(body, "lower_bound"), 6 * 6 + 1) << "six micro-batches at the slow stage";
}

TEST_F(PlanCommandTest, WhatCannotBeIsRefusedWithItsReason) {
  refused({"--fail", "0:2,1:2,2:2"}, 2, "HF-820 plan_impossible: stage 2 has no live lane");
  refused({"--fail", "3:0"}, 2, "there is no pipeline 3, only 0 to 2");
  refused({"--fail", "0:4"}, 2, "there is no stage 4, only 0 to 3");
  refused({"--fail", "0:1,0:1"}, 2, "lane 0:1 fails twice");
  refused({"--fail", "1"}, 2, "HF-106 usage: --fail 1: pipeline:stage, both counted from 0");
  refused({"--fail", "a:b"}, 2, "--fail a:b");
  refused({"--costs", "1,-1,1"}, 2, "--costs -1: a cost is a number from 0 on");
  refused({"--costs", "1,1"}, 2, "3 to 5 numbers: F,I,W,comm,update");
  refused({"--costs", "1,nan,1"}, 2, "--costs nan");
  refused({"--costs", "1,0,1"}, 2, "F, I and W must each cost more than 0");
  refused({"--costs", "1,1,1/1,1,1"}, 2, "one for all, or one for each of 4 stages");
  refused({"--caps", "0"}, 2, "--caps 0");
  refused({"--caps", "1,2"}, 2, "one for all, or one for each of 4 stages");
  refused({"--caps", "-1"}, 2, "--caps");
  refused({"--expert-share", "1.5"}, 2, "--expert-share");
  refused({"--stage-bytes", "5QB"}, 2, "5QB");
  refused({"--policy", "magic"}, 2, "1f1b");
  refused({"--policy", "1f1b", "--fail", "0:0"}, 2, "1f1b needs every lane, stage 0 has 2 of 3");
  refused({"-o", "pdf"}, 2, "table,json,svg,trace");
  refused({"--solver", "guess"}, 2, "fast,exact");
  const Ended none = run({"--stages", "2", "--micro-batches", "2"});
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.output, HasSubstr("--pipelines is required"));
  const Ended large = run({"--pipelines", "1024", "--stages", "256", "--micro-batches", "4096"});
  EXPECT_EQ(large.code, 2);
  EXPECT_THAT(large.output, HasSubstr("it must be at most"));
}

TEST_F(PlanCommandTest, TheExactSolverIsThereOrSaysThatItIsNot) {
  const std::vector<std::string> small = {"--pipelines",     "2",     "--stages", "2",
                                          "--micro-batches", "2",     "--fail",   "0:1",
                                          "--solver",        "exact", "-o",       "json"};
  const Ended ended = run(small);
  if (!train::has_exact_solver()) {
    EXPECT_EQ(ended.code, 3);
    EXPECT_THAT(ended.output, HasSubstr("HF-822 solver_missing"));
    return;
  }
  EXPECT_EQ(ended.code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("\"solver\":\"exact\""));
  refused({"--solver", "exact", "--costs", "1,1.5,1"}, 2, "takes whole costs");
  refused({"--solver", "exact", "--policy", "1f1b"}, 2, "one fixed order");
  const Ended large =
      run({"--pipelines", "32", "--stages", "16", "--micro-batches", "64", "--solver", "exact"});
  EXPECT_EQ(large.code, 6);
  EXPECT_THAT(large.output, HasSubstr("HF-823 solver_limit"));
}

}  // namespace
}  // namespace holdfast::test
