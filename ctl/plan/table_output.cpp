#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "ctl/plan/report.h"
#include "ctl/table.h"
#include "train/schedule/text.h"

namespace holdfast::ctl {
namespace {

constexpr size_t kColumns = 80;
constexpr size_t kMostRows = 48;  // lanes in the picture; more are shown by stage

std::string above(double value, double bound) {
  return fmt::format("{:.1f}%", std::max(0.0, 100 * (value / bound - 1)));
}

std::string dead_lanes(const PlanReport& report) {
  std::string text;
  for (const auto& [d, s] : report.request.failures) {
    const std::string lane = lane_text(d, s);
    if (text.size() + lane.size() > kColumns - 16) return text + " ...";
    text += (text.empty() ? "" : " ") + lane;
  }
  return text;
}

Table totals(const PlanReport& report) {
  const train::Planned& planned = report.planned;
  Table table({"", "time", "lower bound", "above it"});
  table.add({"makespan", number_text(planned.timing.makespan), number_text(planned.bounds.makespan),
             above(planned.timing.makespan, planned.bounds.makespan)});
  table.add({"steady period", number_text(planned.timing.period),
             number_text(planned.bounds.period),
             above(planned.timing.period, planned.bounds.period)});
  return table;
}

Table by_stage(const PlanReport& report) {
  const train::Planned& planned = report.planned;
  Table table({"stage", "lanes", "rounds", "begins", "ends", "busy", "in flight", "cap"});
  for (size_t s = 0; s < planned.plan.stages.size(); ++s) {
    const auto& peak = planned.timing.peak[s];
    double busy = 0;
    for (const double duration : planned.timing.duration[s]) busy += duration;
    const double begin = planned.timing.start[s].front();
    const double end = planned.timing.start[s].back() + planned.timing.duration[s].back();
    table.add(
        {std::to_string(s), std::to_string(planned.plan.stages[s].lanes.size()),
         std::to_string(planned.plan.stages[s].rounds.size()), number_text(begin), number_text(end),
         fmt::format("{:.0f}%", 100 * busy / (end - begin)),
         std::to_string(*std::max_element(peak.begin(), peak.end())),
         report.request.caps_given ? std::to_string(report.request.problem.stages[s].cap) : "-"});
  }
  return table;
}

// One line of the picture: at each column what is under way in the middle of its time. Upper case
// is work on a micro-batch, lower case taking part without one.
std::string picture_line(const PlanReport& report, size_t s, std::optional<size_t> lane,
                         size_t width, double per_column) {
  const auto& rounds = report.planned.plan.stages[s].rounds;
  const train::Timing& timing = report.planned.timing;
  std::string line(width, '.');
  size_t r = 0;
  for (size_t column = 0; column < width; ++column) {
    const double now = (static_cast<double>(column) + 0.5) * per_column;
    while (r < rounds.size() && timing.start[s][r] + timing.duration[s][r] <= now) ++r;
    if (r == rounds.size() || timing.start[s][r] > now) continue;
    const char kind = train::letter(rounds[r].work);
    line[column] = static_cast<char>(std::tolower(kind));
    if (!lane) line[column] = kind;
    if (lane && rounds[r].lanes[*lane]) line[column] = train::letter(rounds[r].lanes[*lane]->work);
  }
  return line;
}

std::string picture(const PlanReport& report) {
  const auto& stages = report.planned.plan.stages;
  size_t lanes = 0;
  for (const auto& stage : stages) lanes += stage.lanes.size();
  const bool each = lanes <= kMostRows;
  // The shortest round takes at least a column where there is room for it.
  double shortest = report.planned.timing.makespan;
  for (const auto& of_stage : report.planned.timing.duration)
    for (const double duration : of_stage) shortest = std::min(shortest, duration);
  const double makespan = report.planned.timing.makespan;
  const double per_column = std::max(shortest, makespan / (kColumns - 10));
  const auto width = static_cast<size_t>(std::ceil(makespan / per_column - 1e-9));
  std::string text = fmt::format("\nA column is {} of time; {}. waits\n", number_text(per_column),
                                 each ? "f i w b: takes part without a micro-batch, " : "");
  if (!each)
    text =
        fmt::format("\nA column is {} of time, a line a stage; . waits\n", number_text(per_column));
  for (size_t s = 0; s < stages.size(); ++s) {
    if (!each) {
      text += fmt::format("{:>7}  {}\n", s, picture_line(report, s, {}, width, per_column));
      continue;
    }
    for (size_t lane = 0; lane < stages[s].lanes.size(); ++lane)
      text += fmt::format("{:>7}  {}\n", lane_text(stages[s].lanes[lane], static_cast<uint32_t>(s)),
                          picture_line(report, s, lane, width, per_column));
  }
  return text;
}

std::string proposal_lines(const PlanReport& report) {
  std::string text;
  for (const train::Proposal& proposal : report.proposals) {
    std::string moves;
    for (const train::Move& move : proposal.moves) {
      const std::string one =
          fmt::format(" {} as {}", lane_text(move.from_pipeline, move.from_stage),
                      lane_text(move.to_pipeline, move.to_stage));
      if (moves.size() + one.size() > 44) {
        moves += " ...";
        break;
      }
      moves += one + ",";
    }
    if (moves.back() == ',') moves.pop_back();
    text += fmt::format("\nMoving{}: {} instead of {}", moves, number_text(proposal.after),
                        number_text(proposal.before));
    if (proposal.bytes > 0) text += ", " + bytes_text(proposal.bytes);
  }
  return text.empty() ? text : text + "\n";
}

}  // namespace

std::string plan_table(const PlanReport& report) {
  std::string text = plan_title(report) + "\n";
  if (!report.request.failures.empty())
    text += fmt::format("{} dead: {}\n", report.request.failures.size(), dead_lanes(report));
  text += "\n" + totals(report).text();
  if (report.fault_free_period)
    text += fmt::format("{:.0f}% of the throughput without failures (period {})\n",
                        100 * *report.fault_free_period / report.planned.timing.period,
                        number_text(*report.fault_free_period));
  text += "\n" + by_stage(report).text() + picture(report) + proposal_lines(report);
  return text;
}

}  // namespace holdfast::ctl
