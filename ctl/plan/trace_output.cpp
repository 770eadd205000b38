#include <fmt/format.h>

#include "base/json.h"
#include "ctl/plan/report.h"
#include "train/schedule/text.h"

namespace holdfast::ctl {
namespace {

// A unit of cost is shown as a millisecond; trace events count in microseconds.
constexpr double kMicroseconds = 1000;

boost::json::object name_event(const char* what, uint32_t stage, uint32_t lane,
                               const std::string& name) {
  return {{"ph", "M"}, {"name", what}, {"pid", stage}, {"tid", lane}, {"args", {{"name", name}}}};
}

boost::json::object slice(const std::string& name, const std::string& category, uint32_t stage,
                          uint32_t lane, double start, double duration, size_t round) {
  return {{"ph", "X"},
          {"name", name},
          {"cat", category},
          {"pid", stage},
          {"tid", lane},
          {"ts", start * kMicroseconds},
          {"dur", duration * kMicroseconds},
          {"args", {{"round", round}}}};
}

}  // namespace

std::string plan_trace(const PlanReport& report) {
  const train::Planned& planned = report.planned;
  boost::json::array events;
  for (uint32_t s = 0; s < planned.plan.stages.size(); ++s) {
    const train::StagePlan& stage = planned.plan.stages[s];
    events.push_back(name_event("process_name", s, 0, fmt::format("stage {}", s)));
    for (size_t lane = 0; lane < stage.lanes.size(); ++lane) {
      const uint32_t d = stage.lanes[lane];
      events.push_back(name_event("thread_name", s, d, "lane " + lane_text(d, s)));
      for (size_t r = 0; r < stage.rounds.size(); ++r) {
        const train::StageRound& round = stage.rounds[r];
        const auto& cell = round.lanes[lane];
        const std::string kind(1, train::letter(cell ? cell->work : round.work));
        events.push_back(slice(cell ? train::to_text(*cell) : kind + " of others", kind, s, d,
                               planned.timing.start[s][r], planned.timing.duration[s][r], r));
      }
      if (const double update = report.request.problem.stages[s].costs.update; update > 0)
        events.push_back(slice("update", "update", s, d, planned.timing.update_start[s], update,
                               stage.rounds.size()));
    }
  }
  const boost::json::object trace{{"displayTimeUnit", "ms"},
                                  {"otherData", {{"plan", plan_title(report)}}},
                                  {"traceEvents", std::move(events)}};
  return boost::json::serialize(trace) + "\n";
}

}  // namespace holdfast::ctl
