// What a whole cluster on this machine costs and how fast it is back, from the control socket alone:
// the step time with dense snapshots against none, in turns in one run; and the time from SIGKILL of a
// worker or of a node until the loss is noticed and until the next step is complete.
//   cluster_bench --job FILE.toml --data TOKENS [--rounds N] [--steps N] [--commit HEX] [--out FILE]
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

#include "bench/cluster_run.h"
#include "bench/record.h"

namespace {

using namespace holdfast;
using namespace holdfast::bench;
namespace fs = std::filesystem;

constexpr uint64_t kWarmUpSteps = 10;

std::vector<double> step_seconds(conf::JobConfig job, const std::string& policy) {
  job.snapshot.policy = policy;
  ClusterRun run(job);
  run.begin(job);
  run.wait_for_step(job.steps);
  std::vector<double> seconds;
  for (const auto& row : run.steps(job, kWarmUpSteps))
    if (!row.held_out_loss) seconds.push_back(row.seconds);
  return seconds;
}

struct Recovery {
  double noticed_ms = 0;
  double first_step_ms = 0;
};

// Kills the worker of the last node, or its daemon too, in the middle of a run.
Recovery recovery(const conf::JobConfig& job, bool worker_only) {
  ClusterRun run(job);
  run.begin(job);
  run.wait_for_step(kWarmUpSteps);
  const uint64_t before = run.events().back().sequence;
  const std::string victim = run.playground().nodes().back().name;  // never the seed
  const auto pid = must(run.playground().worker_pid(victim));
  if (!pid) must(fail(ErrorCode::kProcess, victim + " runs no worker"));
  const int64_t killed_ms = wall_ms();
  if (worker_only) {
    kill(*pid, SIGKILL);
  } else {
    must(run.playground().kill_node(victim));
  }
  Recovery result{-1, -1};
  run.wait_for("the first step after the failure", [&] {
    for (const auto& event : run.events()) {
      if (event.sequence <= before) continue;
      const auto after = static_cast<double>(event.wall_ms - killed_ms);
      const bool notices = event.kind == "worker_lost" || event.kind == "node_suspected" ||
                           event.kind == "quiesce";
      if (notices && result.noticed_ms < 0) result.noticed_ms = after;
      if (event.kind == "first_step" && result.first_step_ms < 0) result.first_step_ms = after;
    }
    return result.first_step_ms >= 0;
  });
  return result;
}

boost::json::object summary(const std::vector<Recovery>& all) {
  std::vector<double> noticed, first;
  for (const Recovery& r : all) {
    noticed.push_back(r.noticed_ms);
    first.push_back(r.first_step_ms);
  }
  return {{"runs", all.size()},
          {"noticed_ms_median", median(noticed)},
          {"noticed_ms_most", *std::max_element(noticed.begin(), noticed.end())},
          {"first_step_ms_median", median(first)},
          {"first_step_ms_most", *std::max_element(first.begin(), first.end())}};
}

struct Arguments {
  fs::path job, data, out;
  std::string commit;
  uint32_t rounds = 3;
  uint64_t steps = 60;
};

void measure(const Arguments& arguments) {
  const conf::JobConfig job = must(
      conf::load_job(arguments.job, {.data = arguments.data.string(), .steps = arguments.steps}));
  if (job.pipelines < 2)
    must(fail(ErrorCode::kConfigValue, fmt::format("pipelines = {} in {}: one node of at least 2 is lost",
                                                   job.pipelines, arguments.job.string())));
  must(can_write(arguments.out));

  std::vector<double> none, dense, ratios;
  for (uint32_t round = 0; round < arguments.rounds; ++round) {
    // Each goes first in turn: a machine that warms up or slows down favours neither.
    std::vector<double> with, without;
    if (round % 2 == 1) with = step_seconds(job, "dense");
    without = step_seconds(job, "none");
    if (round % 2 == 0) with = step_seconds(job, "dense");
    ratios.push_back(median(with) / median(without));
    fmt::print("round {}: step {:.1f} ms without, {:.1f} ms with dense snapshots, ratio {:.3f}\n",
               round, 1e3 * median(without), 1e3 * median(with), ratios.back());
    none.insert(none.end(), without.begin(), without.end());
    dense.insert(dense.end(), with.begin(), with.end());
  }
  std::vector<Recovery> worker, node;
  for (uint32_t round = 0; round < arguments.rounds; ++round) {
    worker.push_back(recovery(job, true));
    node.push_back(recovery(job, false));
    fmt::print("round {}: worker noticed {} ms, first step {} ms; node noticed {} ms, first step {} ms\n",
               round, worker.back().noticed_ms, worker.back().first_step_ms, node.back().noticed_ms,
               node.back().first_step_ms);
  }

  const boost::json::object result{
      {"origin", origin(arguments.commit)},
      {"job", job.name.value},
      {"workers", job.workers()},
      {"processors", std::thread::hardware_concurrency()},
      {"step_ms_without_snapshots", 1e3 * median(none)},
      {"step_ms_with_dense_snapshots", 1e3 * median(dense)},
      {"dense_cost_ratio_median", median(ratios)},
      {"worker_killed", summary(worker)},
      {"node_killed", summary(node)}};
  const std::string text = boost::json::serialize(result);
  fmt::print("{}\n", text);
  must(write_result(arguments.out, text + "\n"));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Cost of snapshots and speed of recovery on a cluster on this machine");
  Arguments arguments;
  app.add_option("--job", arguments.job)->required();
  app.add_option("--data", arguments.data)->required();
  app.add_option("--rounds", arguments.rounds)->capture_default_str()->check(CLI::Range(1, 1000));
  app.add_option("--steps", arguments.steps)->capture_default_str();
  app.add_option("--commit", arguments.commit, "that this was built from, for the record")
      ->check(commit_complaint);
  app.add_option("--out", arguments.out);
  CLI11_PARSE(app, argc, argv);
  try {
    measure(arguments);
  } catch (const Failed& failed) {
    fmt::print(stderr, "cluster_bench: {}\n", failed.error.to_string());
    return error_row(failed.error.code).exit_code;
  }
  return 0;
}
