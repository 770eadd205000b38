// What failures cost a job of several stages: steps a second as nodes die for good, against what the plan
// predicts and against what other ways of going on would give. With a job whose operations take a given
// time (conf/jobs/synthetic.toml) it is measured honestly on a machine with few cores.
//   throughput_bench --job FILE.toml --data TOKENS [--fail d:s,d:s] [--steps N] [--commit HEX] [--out FILE]
//
// Measured, in wall time from step to step, snapshots on: this system; the same with I and W in one
// (re-routing alone); the job with fewer pipelines that share all its micro-batches (every pipeline with a
// dead worker is dropped). Computed: 1F1B of those pipelines, and restarting from a checkpoint: the
// dropping system, which after every failure repeats half a checkpoint's interval and restarts.
#include <fmt/format.h>
#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <thread>

#include "bench/cluster_run.h"
#include "bench/record.h"
#include "bench/restart_model.h"
#include "train/schedule/job_plan.h"
#include "train/schedule/planner.h"
#include "train/schedule/simulate.h"

namespace {

using namespace holdfast;
using namespace holdfast::bench;
using train::LanesByStage;
namespace fs = std::filesystem;

constexpr uint64_t kWarmUpSteps = 3;  // of every view

struct Arguments {
  fs::path job, data, out;
  std::vector<std::string> failures = {"1:2", "2:1", "3:3", "1:0"};
  uint64_t steps = 20;
  RestartModel restart;
  std::string commit;
};

struct Measured {
  double step_ms = 0;         // wall time
  double median_step_ms = 0;  // as the lanes report it, without what is between two steps
  double predicted_ms = 0;    // of the plan
  double load = 0;            // of the machine, over a minute, at the end
  uint32_t workers = 0;
  double ratio() const { return step_ms / predicted_ms; }
};

// ---- what the plan says ----------------------------------------------------------------------------

double predicted_ms(const conf::JobConfig& job, const LanesByStage& lanes) {
  const train::Plan plan = must(train::plan_of_job(job, lanes));
  return train::simulate(train::problem_of_job(job, lanes), plan,
                         train::barrier_of(train::policy_of_job(job)))
      .period;
}

LanesByStage all_lanes(const conf::JobConfig& job) {
  std::vector<uint32_t> lanes(job.pipelines);
  std::iota(lanes.begin(), lanes.end(), 0U);
  return LanesByStage(job.stages, lanes);
}

// The same step on fewer pipelines; nullopt: its micro-batches cannot be dealt out to them evenly.
std::optional<conf::JobConfig> with_pipelines(conf::JobConfig job, uint32_t pipelines) {
  const uint32_t total = job.pipelines * job.micro_batches;
  if (pipelines == 0 || total % pipelines != 0) return std::nullopt;
  job.pipelines = pipelines;
  job.micro_batches = total / pipelines;
  job.snapshot.replicas = std::min(job.snapshot.replicas, job.workers() - 1);
  return job;
}

double one_forward_one_backward_ms(const conf::JobConfig& job) {
  return must(train::plan_step(train::problem_of_job(job, all_lanes(job)),
                               train::Policy::kOneForwardOneBackward))
      .timing.period;
}

// ---- what a cluster does ---------------------------------------------------------------------------

LanesByStage live_lanes(ClusterRun& run, const conf::JobConfig& job) {
  LanesByStage lanes(job.stages);
  for (const auto& node : run.get<std::vector<daemon::api::Node>>("/v1/nodes"))
    if (node.coordinate)
      lanes[node.coordinate->stage.value].push_back(node.coordinate->pipeline.value);
  for (auto& stage : lanes) std::sort(stage.begin(), stage.end());
  return lanes;
}

// Steps of one view with so many workers; begins anew when the view changes (a planned move).
Measured measure(ClusterRun& run, const conf::JobConfig& job, uint32_t workers, uint64_t steps) {
  for (int tries = 0; tries < 5; ++tries) {
    uint64_t from = 0;
    run.wait_for(fmt::format("a view of {} workers", workers), [&] {
      from = run.steps_done();
      const auto rows = run.steps(job, from == 0 ? 0 : from - 1);
      return !rows.empty() && rows.back().lanes == workers;
    });
    run.wait_for_step(from + kWarmUpSteps);
    from = run.steps_done();
    run.wait_for_step(from + 1);  // the wait is from step to step
    const int64_t begun = wall_ms();
    run.wait_for_step(from + 1 + steps);
    const int64_t ended = wall_ms();
    const auto rows = run.steps(job, from);
    std::vector<double> seconds;
    bool one_view = true;
    for (const auto& row : rows) {
      if (row.step.value >= from + steps) continue;  // lanes may be in it, or their reports on the way
      seconds.push_back(1e3 * row.seconds);
      one_view = one_view && row.made == rows.front().made && row.lanes == workers;
    }
    if (!one_view) continue;
    Measured result{static_cast<double>(ended - begun) / static_cast<double>(steps), median(seconds),
                    predicted_ms(job, live_lanes(run, job)), 0, workers};
    getloadavg(&result.load, 1);
    return result;
  }
  must(fail(ErrorCode::kTimeout, "views keep changing"));
  return {};
}

void kill_at(ClusterRun& run, const Coordinate& place) {
  for (const auto& node : run.get<std::vector<daemon::api::Node>>("/v1/nodes")) {
    if (node.coordinate != place) continue;
    if (node.node.value == run.playground().nodes().front().name)
      must(fail(ErrorCode::kConfigValue, node.node.value + " is the seed, it has to live"));
    return must(run.playground().kill_node(node.node.value));
  }
  must(fail(ErrorCode::kConfigValue, fmt::format("nobody is at {}:{}", place.pipeline.value,
                                                 place.stage.value)));
}

void tell(const std::string& what, size_t failures, const Measured& m) {
  fmt::print("{}, {} failures: step {:.1f} ms ({:.1f} median of lanes), plan {:.1f} ms, ratio {:.3f}, "
             "load {:.1f}\n",
             what, failures, m.step_ms, m.median_step_ms, m.predicted_ms, m.ratio(), m.load);
  std::fflush(stdout);
}

// By number of failures, the nodes killed one after the other.
std::vector<Measured> with_failures(const std::string& what, const conf::JobConfig& job,
                                    const std::vector<Coordinate>& failures, uint64_t steps) {
  ClusterRun run(job);
  run.begin(job);
  std::vector<Measured> all;
  for (size_t failed = 0; failed <= failures.size(); ++failed) {
    if (failed > 0) kill_at(run, failures[failed - 1]);
    all.push_back(measure(run, job, job.workers() - static_cast<uint32_t>(failed), steps));
    tell(what, failed, all.back());
  }
  return all;
}

// ---- the result ------------------------------------------------------------------------------------

std::vector<Coordinate> read_failures(const conf::JobConfig& job,
                                      const std::vector<std::string>& words) {
  std::vector<Coordinate> failures;
  std::vector<uint32_t> lost(job.stages);
  for (const std::string& word : words) {
    unsigned pipeline = 0, stage = 0;
    if (std::sscanf(word.c_str(), "%u:%u", &pipeline, &stage) != 2 || pipeline >= job.pipelines ||
        stage >= job.stages || ++lost[stage] == job.pipelines)
      must(fail(ErrorCode::kUsage, fmt::format("--fail {}: no lane of the job, or the last one of "
                                               "its stage",
                                               word)));
    failures.push_back({PipelineIndex(pipeline), StageIndex(stage)});
  }
  return failures;
}

uint32_t whole_pipelines(const conf::JobConfig& job, std::span<const Coordinate> failures) {
  std::set<uint32_t> broken;
  for (const Coordinate& place : failures) broken.insert(place.pipeline.value);
  return job.pipelines - static_cast<uint32_t>(broken.size());
}

// With so many failures.
struct Row {
  size_t failures = 0;
  Measured split, reroute;
  uint32_t whole_pipelines = 0;
  std::optional<Measured> drop;  // by those; nullopt: it stops, or cannot deal out the micro-batches
  double drop_1f1b_ms = 0;       // computed, as is
  double restart_ms = 0;         // this
};

std::vector<Row> measure_all(const Arguments& arguments, const conf::JobConfig& job) {
  const std::vector<Coordinate> failures = read_failures(job, arguments.failures);
  conf::JobConfig coupled = job;
  coupled.synthetic->policy = "reroute";
  const auto split = with_failures("split", job, failures, arguments.steps);
  const auto reroute = with_failures("reroute", coupled, failures, arguments.steps);
  std::map<uint32_t, Measured> dropping{{job.pipelines, split.front()}};
  std::vector<Row> rows;
  for (size_t failed = 0; failed <= failures.size(); ++failed) {
    const uint32_t whole = whole_pipelines(job, std::span(failures).first(failed));
    Row& row = rows.emplace_back(Row{failed, split[failed], reroute[failed], whole, {}, 0, 0});
    const auto smaller = with_pipelines(job, whole);
    if (!smaller) continue;
    if (!dropping.contains(whole))
      dropping[whole] =
          with_failures(fmt::format("{} pipelines", whole), *smaller, {}, arguments.steps).front();
    row.drop = dropping[whole];
    row.drop_1f1b_ms = one_forward_one_backward_ms(*smaller);
    row.restart_ms = arguments.restart.step_ms(row.drop->step_ms);
  }
  return rows;
}

boost::json::object to_json(const Measured& m) {
  return {{"workers", m.workers},    {"step_ms", m.step_ms}, {"median_of_lanes_ms", m.median_step_ms},
          {"plan_ms", m.predicted_ms}, {"ratio", m.ratio()},   {"load", m.load}};
}

boost::json::array to_json(const std::vector<Row>& rows) {
  boost::json::array all;
  for (const Row& row : rows) {
    boost::json::object out{{"failures", row.failures},
                            {"split", to_json(row.split)},
                            {"reroute", to_json(row.reroute)},
                            {"whole_pipelines", row.whole_pipelines}};
    if (row.drop) {
      out["drop"] = to_json(*row.drop);
      out["computed_drop_1f1b_ms"] = row.drop_1f1b_ms;
      out["computed_restart_ms"] = row.restart_ms;
    }
    all.push_back(std::move(out));
  }
  return all;
}

boost::json::object result(const Arguments& arguments, const conf::JobConfig& job,
                           const std::vector<Row>& rows) {
  boost::json::array places;
  for (const std::string& word : arguments.failures) places.emplace_back(word);
  return {{"bench", "throughput"},
          {"origin", origin(arguments.commit)},
          {"job", job.name.value},
          {"pipelines", job.pipelines},
          {"stages", job.stages},
          {"micro_batches", job.micro_batches},
          {"synthetic", boost::json::value_from(*job.synthetic)},
          {"processors", std::thread::hardware_concurrency()},
          {"steps", arguments.steps},
          {"failed", std::move(places)},
          {"restart_model",
           {{"checkpoint_seconds", arguments.restart.checkpoint_seconds},
            {"restart_seconds", arguments.restart.restart_seconds},
            {"seconds_between_failures", arguments.restart.failure_seconds}}},
          {"rows", to_json(rows)}};
}

// Milliseconds a step.
void print_table(const std::vector<Row>& rows) {
  fmt::print("failures   plan  measured  ratio | reroute  drop pipelines | computed: drop 1f1b  restart\n");
  for (const Row& row : rows) {
    fmt::print("{:8} {:6.0f} {:9.0f} {:6.3f} | {:7.0f} ", row.failures, row.split.predicted_ms,
               row.split.step_ms, row.split.ratio(), row.reroute.step_ms);
    if (row.drop)
      fmt::print("{:15.0f} | {:19.0f} {:8.0f}\n", row.drop->step_ms, row.drop_1f1b_ms, row.restart_ms);
    else
      fmt::print("{:>15} | {:>19} {:>8}\n", "-", "-", "-");
  }
}

void run(const Arguments& arguments) {
  must(check_restart_model(arguments.restart));
  const conf::JobConfig job = must(conf::load_job(
      arguments.job, {.data = arguments.data.string(), .steps = uint64_t{1'000'000}}));
  if (!job.synthetic || job.stages < 2)
    must(fail(ErrorCode::kConfigValue,
              fmt::format("{} needs [synthetic] and stages of at least 2", arguments.job.string())));
  must(can_write(arguments.out));
  const std::vector<Row> rows = measure_all(arguments, job);
  print_table(rows);
  must(write_result(arguments.out, boost::json::serialize(result(arguments, job, rows)) + "\n"));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Throughput of a job of several stages as nodes fail, on a cluster on this machine");
  Arguments arguments;
  app.add_option("--job", arguments.job)->required();
  app.add_option("--data", arguments.data)->required();
  app.add_option("--fail", arguments.failures, "pipeline:stage of the nodes that are killed, in turn")
      ->delimiter(',');
  app.add_option("--steps", arguments.steps)->capture_default_str()->check(CLI::Range(1, 100000));
  app.add_option("--checkpoint-seconds", arguments.restart.checkpoint_seconds)->capture_default_str();
  app.add_option("--restart-seconds", arguments.restart.restart_seconds)->capture_default_str();
  app.add_option("--failure-seconds", arguments.restart.failure_seconds)->capture_default_str();
  app.add_option("--commit", arguments.commit, "that this was built from, for the record")
      ->check(commit_complaint);
  app.add_option("--out", arguments.out);
  CLI11_PARSE(app, argc, argv);
  try {
    run(arguments);
  } catch (const Failed& failed) {
    fmt::print(stderr, "throughput_bench: {}\n", failed.error.to_string());
    return error_row(failed.error.code).exit_code;
  }
  return 0;
}
