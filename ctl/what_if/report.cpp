#include "ctl/what_if/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "ctl/table.h"

namespace holdfast::ctl {
namespace {

using daemon::Duration;
using daemon::Prediction;

constexpr size_t kMostRows = 24;  // of a table; JSON has all

std::string name_of(const daemon::WorkerId& worker) {
  return worker.slot == 0 ? worker.node.value
                          : fmt::format("{}.{}", worker.node.value, worker.slot);
}

std::string number(const std::optional<double>& value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : "-";
}

std::string joined(const std::vector<std::string>& all) {
  std::string text;
  for (const std::string& one : all) text += (text.empty() ? "" : ", ") + one;
  return text;
}

void add_line(std::string& text, const char* name, const std::string& value) {
  text += fmt::format("{:<9} {}\n", name, value);
}

std::string more(size_t rows) {
  return rows <= kMostRows ? "" : fmt::format("... and {} more, see -o json\n", rows - kMostRows);
}

std::string losses(const daemon::WhatIf& answer) {
  std::string text;
  std::vector<std::string> workers, stages;
  for (const daemon::LostWorker& lost : answer.lost)
    workers.push_back(fmt::format("{} at {}", name_of(lost.worker), to_string(lost.coordinate)));
  for (const uint32_t stage : answer.lost_stages) stages.push_back(std::to_string(stage));
  add_line(text, "lost", workers.empty() ? "no worker" : joined(workers) + " (pipeline, stage)");
  if (!stages.empty()) add_line(text, "stages", joined(stages) + " would have no lane left");
  return text;
}

std::string state(const Prediction& prediction) {
  std::string text;
  add_line(text, "base",
           fmt::format("{}, {} finished step{} done again", to_string(prediction.base),
                       prediction.steps_twice, prediction.steps_twice == 1 ? "" : "s"));
  std::vector<std::string> moves;
  for (const daemon::LaneMove& move : prediction.moves)
    moves.push_back(fmt::format("{} from {} to {}", name_of(move.worker), to_string(move.from),
                                to_string(move.to)));
  if (!moves.empty()) add_line(text, "moves", joined(moves));
  add_line(text, "shards",
           fmt::format("{} without an owner ({}), {} moved between nodes", prediction.orphan_shards,
                       bytes_text(prediction.orphan_bytes), bytes_text(prediction.bytes_moved)));
  return text;
}

std::string recovery(const daemon::RecoveryTime& time) {
  Table table({"TO RECOVER", "SECONDS", "FIGURE"});
  const auto add = [&](const char* name, const Duration& part) {
    table.add({name, number(part.seconds, "{:.2f}"), part.from});
  };
  add("noticed", time.noticed);
  add("quiesce", time.quiesce);
  add("restore", time.restore);
  add("connect", time.connect);
  add("first step", time.first_step);
  table.add({"in all", fmt::format("{:.2f}", time.total),
             time.first_step.seconds ? "" : "without what is not known"});
  return table.text();
}

std::string pace(const daemon::Pace& pace) {
  Table table({"PACE", "NOW", "AFTER", "UNIT"});
  table.add({"step", number(pace.step_seconds_before, "{:.3f}"),
             number(pace.step_seconds_after, "{:.3f}"), "s"});
  table.add({"throughput", number(pace.tokens_per_second_before, "{:.0f}"),
             number(pace.tokens_per_second_after, "{:.0f}"), "tokens/s"});
  table.add({"of now", "100", fmt::format("{:.0f}", 100 * pace.throughput_ratio), "%"});
  table.add({"plan", fmt::format("{:.4g}", pace.plan_before), fmt::format("{:.4g}", pace.plan_after),
             pace.plan_unit});
  return table.text();
}

std::string route(const Prediction& prediction) {
  if (prediction.lanes.empty()) return "";
  Table table({"RUNS", "PIPELINE", "STAGE", "MICRO-BATCHES NOW", "AFTER"});
  for (size_t i = 0; i < std::min(prediction.lanes.size(), kMostRows); ++i) {
    const daemon::LaneRoute& lane = prediction.lanes[i];
    table.add({name_of(lane.worker), std::to_string(lane.coordinate.pipeline.value),
               std::to_string(lane.coordinate.stage.value),
               std::to_string(lane.micro_batches_before), std::to_string(lane.micro_batches_after)});
  }
  return "\n" + table.text() + more(prediction.lanes.size());
}

std::string transfers(const Prediction& prediction) {
  if (prediction.transfers.empty()) return "";
  Table table({"NEW OWNER", "TAKES FROM", "SHARDS", "SIZE"});
  for (size_t i = 0; i < std::min(prediction.transfers.size(), kMostRows); ++i) {
    const daemon::ShardTransfer& transfer = prediction.transfers[i];
    const std::string from = transfer.source == "replica"   ? transfer.from.value
                             : transfer.source == "initial" ? "the seed of the job"
                                                            : "its own " + transfer.source;
    table.add({transfer.to.value, from, std::to_string(transfer.shards),
               bytes_text(transfer.bytes)});
  }
  return "\n" + table.text() + more(prediction.transfers.size());
}

}  // namespace

std::string what_if_table(const daemon::WhatIf& answer) {
  std::vector<std::string> failed;
  for (const NodeId& node : answer.failed) failed.push_back(node.value);
  std::string text = fmt::format("If {} died now, at {} of job {}:\n{}\n\n", joined(failed),
                                 fmt::format("step {}", answer.version.value), answer.job.value,
                                 answer.text);
  text += losses(answer);
  if (answer.prediction) {
    text += state(*answer.prediction) + "\n" + recovery(answer.prediction->recovery) + "\n" +
            pace(answer.prediction->pace) + route(*answer.prediction) +
            transfers(*answer.prediction);
  }
  text += "\nTaken for granted:\n";
  for (const std::string& one : answer.assumptions) text += "- " + one + "\n";
  return text;
}

}  // namespace holdfast::ctl
