#include "train/schedule/simulate.h"

#include <algorithm>

#include "base/check.h"
#include "train/schedule/graph.h"
#include "train/schedule/validate.h"

namespace holdfast::train {
namespace {

uint32_t busy_lanes(const StageRound& round) {
  return static_cast<uint32_t>(
      std::count_if(round.lanes.begin(), round.lanes.end(),
                    [&](const auto& cell) { return cell && cell->work == round.work; }));
}

std::vector<std::vector<double>> durations(const Problem& problem, const Plan& plan,
                                           const std::vector<StagePlaces>& places) {
  std::vector<std::vector<double>> all;
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const auto& rounds = plan.stages[s].rounds;
    all.emplace_back();
    for (const StageRound& round : rounds) {
      uint32_t shares = 0;
      for (const uint32_t number : round.experts)
        shares += busy_lanes(rounds[places[s].gradient_rounds[number]]);
      const double lanes = static_cast<double>(plan.stages[s].lanes.size());
      all.back().push_back(round_duration(problem.stages[s].costs, round, shares / lanes));
    }
  }
  return all;
}

// Orders the rounds of all stages so that each comes after what it waits for: each stage goes as
// far as its inputs allow, again and again.
class GraphBuilder {
 public:
  GraphBuilder(const Problem& problem, const Plan& plan, const std::vector<StagePlaces>& places,
               const std::vector<std::vector<double>>& duration)
      : problem_(problem), plan_(plan), places_(places), duration_(duration) {
    node_.resize(plan.stages.size());
    for (const StageProblem& stage : problem.stages) graph_.updates.push_back(stage.costs.update);
  }

  StepGraph build() {
    size_t rounds = 0;
    for (const StagePlan& stage : plan_.stages) rounds += stage.rounds.size();
    while (graph_.nodes.size() < rounds) {
      const size_t before = graph_.nodes.size();
      for (uint32_t s = 0; s < plan_.stages.size(); ++s)
        while (node_[s].size() < plan_.stages[s].rounds.size() && add(s)) {
        }
      CHECK(graph_.nodes.size() > before, "the plan has not been validated");
    }
    return std::move(graph_);
  }
  const std::vector<std::vector<uint32_t>>& nodes() const { return node_; }

 private:
  bool add(uint32_t s) {
    const auto r = static_cast<uint32_t>(node_[s].size());
    StepGraph::Node node{s, duration_[s][r], static_cast<uint32_t>(graph_.inputs.size()), 0};
    for (const auto& cell : plan_.stages[s].rounds[r].lanes)
      if (cell && !add_input(s, *cell)) {
        graph_.inputs.resize(node.inputs_begin);
        return false;
      }
    node.inputs_end = static_cast<uint32_t>(graph_.inputs.size());
    node_[s].push_back(static_cast<uint32_t>(graph_.nodes.size()));
    graph_.nodes.push_back(node);
    return true;
  }

  bool add_input(uint32_t s, const Cell& cell) {
    if (cell.work == Work::kWeightGradient) return true;
    const bool forward = cell.work == Work::kForward;
    if (forward ? s == 0 : s + 1 == plan_.stages.size()) return true;
    const uint32_t from = forward ? s - 1 : s + 1;
    const MicroBatchPlaces& at = places_[from].micro_batches[cell.micro_batch.value];
    const uint32_t round = (forward ? at.forward : at.gradient).round;
    if (round >= node_[from].size()) return false;
    graph_.inputs.push_back({node_[from][round], problem_.stages[from].costs.send});
    return true;
  }

  const Problem& problem_;
  const Plan& plan_;
  const std::vector<StagePlaces>& places_;
  const std::vector<std::vector<double>>& duration_;
  std::vector<std::vector<uint32_t>> node_;  // by stage and round
  StepGraph graph_;
};

}  // namespace

double round_duration(const StageCosts& costs, const StageRound& round, double experts_share) {
  double dense = 0;
  for (const auto& cell : round.lanes)
    if (cell) dense = std::max(dense, round_cost(costs, cell->work).dense);
  double expert = costs.weight.expert * experts_share;
  if (round.work != Work::kWeightGradient)
    expert += round_cost(costs, round.work).expert * busy_lanes(round) /
              static_cast<double>(round.lanes.size());
  return dense + expert;
}

Timing simulate(const Problem& problem, const Plan& plan, Barrier barrier) {
  const std::vector<StagePlaces> places = places_of(plan);
  Timing timing;
  timing.duration = durations(problem, plan, places);
  timing.peak = peak_micro_batches(problem, plan, places);
  GraphBuilder builder(problem, plan, places, timing.duration);
  const StepGraph graph = builder.build();
  const StepTimes times = time_step(graph, barrier);
  timing.makespan = times.makespan;
  timing.period = times.period;
  double last = 0;
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    timing.start.emplace_back();
    for (const uint32_t node : builder.nodes()[s]) timing.start[s].push_back(times.start[node]);
    const double end = timing.start[s].back() + timing.duration[s].back();
    timing.update_start.push_back(end);
    last = std::max(last, end);
  }
  if (barrier == Barrier::kGlobal)
    std::fill(timing.update_start.begin(), timing.update_start.end(), last);
  return timing;
}

}  // namespace holdfast::train
