#include <algorithm>

#include "base/json.h"
#include "ctl/plan/report.h"
#include "train/schedule/text.h"

namespace holdfast::ctl {

struct JsonRound {
  std::string work;
  std::string cells;  // as in the text form of plans
  double start = 0;
  double duration = 0;
};
BOOST_DESCRIBE_STRUCT(JsonRound, (), (work, cells, start, duration))

struct JsonStage {
  uint32_t stage = 0;
  std::vector<uint32_t> lanes;
  std::vector<uint32_t> peak_micro_batches;  // by lane
  double update_start = 0;
  std::vector<JsonRound> rounds;
};
BOOST_DESCRIBE_STRUCT(JsonStage, (), (stage, lanes, peak_micro_batches, update_start, rounds))

struct JsonMove {
  std::string from;
  std::string to;
};
BOOST_DESCRIBE_STRUCT(JsonMove, (), (from, to))

struct JsonProposal {
  std::vector<JsonMove> moves;
  uint64_t bytes = 0;
  double before = 0;
  double after = 0;
};
BOOST_DESCRIBE_STRUCT(JsonProposal, (), (moves, bytes, before, after))

struct JsonPlan {
  std::string policy;
  std::string solver;
  uint32_t pipelines = 0;
  uint32_t stages = 0;
  uint32_t micro_batches = 0;
  std::vector<std::string> failed;
  double makespan = 0;
  double period = 0;
  double lower_bound = 0;  // of the period
  double makespan_lower_bound = 0;
  double gap = 0;
  uint32_t peak_micro_batches = 0;
  std::optional<double> fault_free_period;
  std::vector<JsonProposal> proposals;
  std::vector<JsonStage> rounds;
};
BOOST_DESCRIBE_STRUCT(JsonPlan, (),
                      (policy, solver, pipelines, stages, micro_batches, failed, makespan, period,
                       lower_bound, makespan_lower_bound, gap, peak_micro_batches,
                       fault_free_period, proposals, rounds))

namespace {

JsonStage json_stage(const train::Planned& planned, uint32_t s) {
  const train::StagePlan& stage = planned.plan.stages[s];
  JsonStage out{s, stage.lanes, planned.timing.peak[s], planned.timing.update_start[s], {}};
  for (size_t r = 0; r < stage.rounds.size(); ++r)
    out.rounds.push_back({std::string(1, train::letter(stage.rounds[r].work)),
                          train::to_text(stage.rounds[r]), planned.timing.start[s][r],
                          planned.timing.duration[s][r]});
  return out;
}

}  // namespace

std::string plan_json(const PlanReport& report) {
  const train::Planned& planned = report.planned;
  JsonPlan out;
  out.policy = train::name_of(planned.policy);
  out.solver = report.solver;
  out.pipelines = planned.plan.pipelines;
  out.stages = static_cast<uint32_t>(planned.plan.stages.size());
  out.micro_batches = planned.plan.micro_batches;
  for (const auto& [d, s] : report.request.failures) out.failed.push_back(lane_text(d, s));
  out.makespan = planned.timing.makespan;
  out.period = planned.timing.period;
  out.lower_bound = planned.bounds.period;
  out.makespan_lower_bound = planned.bounds.makespan;
  out.gap = std::max(0.0, train::gap(planned));
  out.fault_free_period = report.fault_free_period;
  for (const auto& of_stage : planned.timing.peak)
    for (const uint32_t held : of_stage)
      out.peak_micro_batches = std::max(out.peak_micro_batches, held);
  for (const train::Proposal& proposal : report.proposals) {
    JsonProposal one{{}, proposal.bytes, proposal.before, proposal.after};
    for (const train::Move& move : proposal.moves)
      one.moves.push_back({lane_text(move.from_pipeline, move.from_stage),
                           lane_text(move.to_pipeline, move.to_stage)});
    out.proposals.push_back(std::move(one));
  }
  for (uint32_t s = 0; s < out.stages; ++s) out.rounds.push_back(json_stage(planned, s));
  return to_json_text(out) + "\n";
}

}  // namespace holdfast::ctl
