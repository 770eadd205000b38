#include "train/schedule/draft.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>

#include "base/check.h"
#include "train/schedule/draft_stage.h"

namespace holdfast::train {
namespace {

class Drafter {
 public:
  Drafter(const Problem& problem, const Style& style)
      : problem_(problem),
        total_(problem.total()),
        forward_node_(problem.stages.size(), std::vector<uint32_t>(total_)),
        gradient_node_(problem.stages.size(), std::vector<uint32_t>(total_)) {
    for (uint32_t s = 0; s < problem.stages.size(); ++s) {
      stages_.emplace_back(problem.stages[s], total_, style, s, s + 1 == problem.stages.size());
      draft_.graph.updates.push_back(problem.stages[s].costs.update);
      wake_.push({0, s});
    }
  }

  Draft run() {
    double now = 0;
    for (;;) {
      while (!wake_.empty()) {
        const auto [time, stage] = wake_.top();
        wake_.pop();
        now = time;
        if (stages_[stage].free_at(now)) consider(stage, now, false);
      }
      if (!begin_unfull(now)) break;
    }
    for (const DraftStage& stage : stages_) CHECK(stage.done());
    return std::move(draft_);
  }

 private:
  bool consider(uint32_t s, double now, bool force) {
    const std::optional<Work> work = stages_[s].choose(now, force);
    if (!work) return false;
    const auto [round, duration] = stages_[s].begin(*work, now, draft_);
    add_node(round, duration);
    const double end = now + duration;
    wake_.push({end, s});
    if (*work == Work::kForward && s + 1 < stages_.size()) deliver(round, s, s + 1, end);
    const bool backward = *work == Work::kInputGradient || *work == Work::kBackward;
    if (backward && s > 0) deliver(round, s, s - 1, end);
    return true;
  }

  void deliver(const DraftRound& round, uint32_t from, uint32_t to, double end) {
    const double time = end + problem_.stages[from].costs.send;
    if (to > from)
      stages_[to].arrive_forward(round.first, round.count, time);
    else
      stages_[to].arrive_gradient(round.first, round.count, time);
    if (stages_[to].free_at(time)) wake_.push({time, to});  // else it wakes when it is free
  }

  // Results come in order, so a round waits for the one that made its last micro-batch.
  void add_node(const DraftRound& round, double duration) {
    const auto number = static_cast<uint32_t>(draft_.rounds.size());
    StepGraph& graph = draft_.graph;
    StepGraph::Node node;
    node.stage = round.stage;
    node.duration = duration;
    node.inputs_begin = static_cast<uint32_t>(graph.inputs.size());
    if (round.count > 0) {
      const uint32_t s = round.stage;
      const uint32_t newest = round.first + round.count - 1;
      const bool forward = round.work == Work::kForward;
      auto& own = forward ? forward_node_[s] : gradient_node_[s];
      std::fill_n(own.begin() + round.first, round.count, number);
      if (forward && s > 0)
        graph.inputs.push_back({forward_node_[s - 1][newest], problem_.stages[s - 1].costs.send});
      if (!forward && s + 1 < stages_.size())
        graph.inputs.push_back({gradient_node_[s + 1][newest], problem_.stages[s + 1].costs.send});
    }
    node.inputs_end = static_cast<uint32_t>(graph.inputs.size());
    graph.nodes.push_back(node);
    draft_.rounds.push_back(round);
  }

  // Everything waits for a full round that will not come (memory is short): the latest stage that
  // has anything begins with what it has.
  bool begin_unfull(double now) {
    for (uint32_t s = static_cast<uint32_t>(stages_.size()); s-- > 0;)
      if (!stages_[s].done() && consider(s, now, true)) return true;
    return false;
  }

  const Problem& problem_;
  const uint32_t total_;
  std::vector<DraftStage> stages_;
  std::vector<std::vector<uint32_t>> forward_node_;  // by stage and micro-batch
  std::vector<std::vector<uint32_t>> gradient_node_;
  Draft draft_;
  using Wake = std::pair<double, uint32_t>;  // when, which stage
  std::priority_queue<Wake, std::vector<Wake>, std::greater<>> wake_;
};

}  // namespace

Draft draft_step(const Problem& problem, const Style& style) {
  return Drafter(problem, style).run();
}

Plan to_plan(const Problem& problem, const Draft& draft) {
  Plan plan{problem.pipelines, problem.micro_batches, {}};
  for (const StageProblem& stage : problem.stages) plan.stages.push_back({stage.lanes, {}});
  for (const DraftRound& from : draft.rounds) {
    StagePlan& stage = plan.stages[from.stage];
    const auto lanes = static_cast<uint32_t>(stage.lanes.size());
    StageRound round;
    round.work = from.work;
    round.lanes.resize(lanes);
    for (uint32_t j = from.first; j < from.first + from.count; ++j)
      round.lanes[j % lanes] = Cell{from.work, MicroBatchIndex(j)};
    for (uint32_t i = from.weights_begin; i < from.weights_end; ++i) {
      const uint32_t j = draft.numbers[i];
      round.lanes[j % lanes] = Cell{Work::kWeightGradient, MicroBatchIndex(j)};
    }
    for (uint32_t i = from.experts_begin; i < from.experts_end; ++i)
      round.experts.push_back(draft.numbers[i]);
    stage.rounds.push_back(std::move(round));
  }
  return plan;
}

}  // namespace holdfast::train
