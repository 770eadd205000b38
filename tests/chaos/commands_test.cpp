// holdfastctl on real clusters: jobs that end in another way than done, and clusters that are left
// alone, interrupted or touched twice.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <cmath>
#include <fstream>

#include "daemon/coordinator/foretold.h"
#include "tests/chaos/failures.h"
#include "tests/ctl/program.h"

namespace holdfast::chaos {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Commands : public testing::Test {
 protected:
  void start() {
    const Status started = cluster_.playground().start_all();
    ASSERT_TRUE(started) << started.error().to_string();
    job_ = small_job(cluster_.directory(), false, 60);
  }
  std::unique_ptr<test::Program> run(std::vector<std::string> arguments) {
    const auto& socket = cluster_.playground().nodes().front().control_socket;
    return std::make_unique<test::Program>(
        "holdfastctl", std::move(arguments), fs::path(cluster_.directory() / "output"),
        std::vector<std::string>{"HOLDFAST_SOCKET=" + socket.string()});
  }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(cluster_.directory() / name) << text;
    return (cluster_.directory() / name).string();
  }
  // The last node that has a lane.
  std::string last_member() {
    std::string last;
    const auto body = cluster_.get("/v1/nodes");
    if (!body) return last;
    const auto nodes = from_json<std::vector<daemon::api::Node>>(*body, "nodes");
    for (const daemon::api::Node& node : nodes.value_or(std::vector<daemon::api::Node>()))
      if (node.lane) last = node.node.value;
    return last;
  }
  static std::string tiny() { return HOLDFAST_SOURCE_DIR "/conf/jobs/tiny.toml"; }

  Cluster cluster_{ClusterOptions{}};
  conf::JobConfig job_;
};

TEST_F(Commands, AJobWhoseDataIsNotThereFailsAndNamesTheFile) {
  start();
  const std::string missing = (cluster_.directory() / "no.tokens").string();
  const test::Ended ended = run({"job", "submit", tiny(), "--data", missing, "--wait"})->wait(90'000);
  EXPECT_EQ(ended.code, 4) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("HF-803 job_state: job tiny failed"));
  EXPECT_THAT(ended.output, HasSubstr("HF-201"));
  EXPECT_THAT(ended.output, HasSubstr(missing));
  const auto now = cluster_.status();  // it never had a view
  ASSERT_TRUE(now && now->job);
  EXPECT_EQ(now->job->state, "failed");
}

TEST_F(Commands, AJobThatDivergesFailsAndNamesTheStep) {
  start();
  job_.steps = 200;
  job_.optimizer.learning_rate = 100;
  job_.optimizer.weight_decay = 10;
  job_.optimizer.warmup_steps = 0;
  cluster_.submit(job_);
  ASSERT_TRUE(cluster_.wait_for_state("failed"));
  const auto now = cluster_.status();
  ASSERT_TRUE(now && now->job);
  EXPECT_THAT(now->job->detail, HasSubstr("HF-806"));
  EXPECT_THAT(now->job->detail, HasSubstr("step "));
  for (const auto& [step, loss] : cluster_.losses(job_.name.value))
    EXPECT_TRUE(std::isfinite(loss.loss)) << "step " << step;
}

TEST_F(Commands, AJobThatTheArenasHaveNoRoomForIsRefused) {
  start();
  const std::string large = write("large.toml", "[model]\nwidth = 512\nexpert_width = 2048\n");
  const test::Ended ended = run({"job", "submit", large, "--data", job_.data.path})->wait();
  EXPECT_EQ(ended.code, 8) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("HF-301 arena_too_small: the arena of node-"));
  const auto jobs = cluster_.get("/v1/jobs");
  ASSERT_TRUE(jobs) << jobs.error().to_string();
  EXPECT_TRUE(jobs->as_array().empty());
}

TEST_F(Commands, WaitingOutlastsTheSeedsDaemon) {
  start();
  const auto waiting = run({"job", "submit", tiny(), "--data", job_.data.path, "--wait"});
  ASSERT_TRUE(cluster_.wait_for_step(5));
  ASSERT_TRUE(cluster_.playground().signal_daemon("node-0", SIGKILL));
  ASSERT_TRUE(cluster_.playground().start_node("node-0"));
  const test::Ended ended = waiting->wait(90'000);
  EXPECT_EQ(ended.code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("tiny: done, step 60 of 60"));
}

TEST_F(Commands, ANodeThatRunsIsNotStartedAgain) {
  start();
  const std::string folder = cluster_.directory().string();
  const pid_t pid = cluster_.playground().node("node-1").daemon_pid;
  const test::Ended again = run({"playground", "start-node", "node-1", "--dir", folder})->wait();
  EXPECT_EQ(again.code, 4) << again.output;
  EXPECT_THAT(again.output, HasSubstr("node-1 runs already"));
  const auto seen = ctl::Playground::open(cluster_.directory());
  ASSERT_TRUE(seen) << seen.error().to_string();
  EXPECT_EQ(seen->node("node-1").daemon_pid, pid) << "its daemon is lost sight of";
  const test::Ended unknown = run({"playground", "kill-node", "node-9", "--dir", folder})->wait();
  EXPECT_EQ(unknown.code, 3) << unknown.output;
  EXPECT_THAT(unknown.output, HasSubstr("no node node-9"));
}

TEST_F(Commands, WhatIfForetellsWhatAFailureThenDoes) {
  start();
  EXPECT_THAT(run({"what-if", "--fail", "node-2"})->wait().output, HasSubstr("HF-803 job_state: no job runs"));
  job_.steps = 100'000;
  job_.pipelines = 3;  // one node waits for a place, and would have to fetch what its owner needs
  job_.snapshot.every = 400;  // far apart: the base does not move between question and failure
  cluster_.submit(job_);
  ASSERT_TRUE(cluster_.wait_for_safe(401));
  const std::string victim = last_member();
  const std::string asked = victim == "node-3" ? "node-2" : "node-3";  // forwards to the seed
  const test::Ended unknown = run({"what-if", "--fail", victim + ",node-9"})->wait();
  EXPECT_EQ(unknown.code, 3) << unknown.output;
  EXPECT_THAT(unknown.output, HasSubstr("HF-907 not_found: there is no node node-9"));
  const test::Ended table = run({"what-if", "--fail", victim})->wait();
  EXPECT_EQ(table.code, 0) << table.output;
  EXPECT_THAT(table.output, HasSubstr("job tiny goes on with 3 of 3 lanes from v"));
  fmt::print("{}", table.output);

  const uint64_t before = cluster_.last_event();
  Result<daemon::WhatIf> said = fail(ErrorCode::kTimeout, "not asked");
  ASSERT_TRUE(cluster_.wait("a question well before the next base", 60'000, [&] {
    const auto body = cluster_.get("/v1/what-if?fail=" + victim, asked);
    if (!body) return false;
    said = from_json<daemon::WhatIf>(*body, "what-if");
    return said && said->prediction && said->prediction->steps_twice < 200;
  }));
  ASSERT_TRUE(cluster_.playground().kill_node(victim));
  const daemon::Prediction& foretold = *said->prediction;
  EXPECT_EQ(said->outcome, "continues");
  EXPECT_GT(foretold.orphan_shards, 0U);
  EXPECT_GT(foretold.bytes_moved, 0U);
  EXPECT_TRUE(foretold.pace.step_seconds_after);

  const auto recovered = cluster_.wait_for_event("recovered", before);
  ASSERT_TRUE(recovered);
  const auto view = cluster_.wait_for_event("view", before);
  ASSERT_TRUE(view);
  fmt::print("{}\n", recovered->text);
  EXPECT_EQ(detail(*view, "base"), std::to_string(foretold.base.version.value));
  EXPECT_EQ(detail(*view, "bytes_moved"), std::to_string(foretold.bytes_moved));
  EXPECT_EQ(detail(*recovered, "base"), to_string(foretold.base));
  EXPECT_EQ(detail(*recovered, "base_predicted"), to_string(foretold.base));
  EXPECT_EQ(detail(*recovered, "bytes_moved"), std::to_string(foretold.bytes_moved));
  EXPECT_EQ(detail(*recovered, "bytes_moved_predicted"), std::to_string(foretold.bytes_moved));
  EXPECT_EQ(detail(*recovered, "owners_as_predicted"), "true");
  EXPECT_GT(std::stod(detail(*recovered, "seconds")), 0);
  EXPECT_GT(std::stod(detail(*recovered, "seconds_predicted")), 0);

  const auto job = cluster_.get("/v1/jobs/tiny");
  ASSERT_TRUE(job) << job.error().to_string();
  const auto views = from_json<std::vector<daemon::View>>(job->at("views"), "views");
  ASSERT_TRUE(views && !views->empty());
  EXPECT_EQ(views->back().owner_lane, foretold.owner_lane);
  ASSERT_EQ(views->back().members.size(), foretold.workers.size());
  for (size_t lane = 0; lane < foretold.workers.size(); ++lane)
    EXPECT_EQ(views->back().members[lane].worker, foretold.workers[lane]);
  const auto pace = cluster_.wait_for_event("pace", before);
  ASSERT_TRUE(pace);
  fmt::print("{}\n", pace->text);
}

TEST_F(Commands, QuickstartInterruptedLeavesNothingRunning) {
  const fs::path folder = cluster_.directory() / "q";
  const auto quickstart = run({"quickstart", "--dir", folder.string(), "--job", tiny(), "--data",
                               HOLDFAST_SOURCE_DIR "/base", "--steps", "100000"});
  ASSERT_TRUE(cluster_.wait("the quickstart to train", 60'000, [&] {
    const auto playground = ctl::Playground::open(folder / "quickstart");
    return playground && playground->nodes().size() == 4 && playground->daemon_runs("node-3") &&
           playground->worker_pid("node-3").value_or(std::nullopt);
  }));
  const auto playground = ctl::Playground::open(folder / "quickstart");
  ASSERT_TRUE(playground) << playground.error().to_string();
  quickstart->signal(SIGINT);
  const test::Ended ended = quickstart->wait(60'000);
  EXPECT_EQ(ended.code, 1) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("HF-908 interrupted"));
  for (const ctl::PlaygroundNode& node : playground->nodes()) {
    EXPECT_FALSE(playground->daemon_runs(node.name)) << node.name;
    EXPECT_FALSE(playground->worker_pid(node.name).value_or(std::nullopt)) << node.name;
  }
}

TEST_F(Commands, QuickstartWithTwoPipelinesLosesTheLastNodeAndEnds) {
  const std::string two = write("two.toml",
                                "pipelines = 2\n[model]\nlayers = 1\nwidth = 16\nexpert_width = 16\n"
                                "context = 16\n");
  const test::Ended ended =
      run({"quickstart", "--dir", (cluster_.directory() / "q").string(), "--job", two, "--data",
           HOLDFAST_SOURCE_DIR "/base", "--steps", "150"})
          ->wait(120'000);
  EXPECT_EQ(ended.code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("SIGKILL to node-1"));
}

}  // namespace
}  // namespace holdfast::chaos
