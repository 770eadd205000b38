#include "train/schedule/normalize.h"

#include <algorithm>
#include <set>

#include "base/check.h"

namespace holdfast::train {
namespace {

using Counts = std::vector<uint32_t>;  // lanes by stage

// bound[s][c]: of stage s with c lanes; c from 1 to D.
using StageBounds = std::vector<std::vector<double>>;

StageBounds all_stage_bounds(const Problem& problem) {
  StageBounds all;
  for (uint32_t s = 0; s < problem.stages.size(); ++s) {
    all.emplace_back(1, 0.0);
    for (uint32_t c = 1; c <= problem.pipelines; ++c)
      all.back().push_back(stage_bound(problem, s, c));
  }
  return all;
}

// The fewest lanes with which stage s keeps to `period`; 0 when even D do not.
uint32_t lanes_needed(const std::vector<double>& bounds, double period) {
  for (uint32_t c = 1; c < bounds.size(); ++c)
    if (bounds[c] <= period) return c;
  return 0;
}

// Lanes by stage with which no stage needs more than `period`, by the fewest moves: stages that are
// short get what they need, from those with the most to spare. Empty when there are not enough.
Counts target(const StageBounds& bounds, Counts now, double period) {
  Counts need;
  for (const auto& of_stage : bounds) {
    need.push_back(lanes_needed(of_stage, period));
    if (need.back() == 0) return {};
  }
  for (size_t s = 0; s < now.size(); ++s)
    while (now[s] < need[s]) {
      size_t donor = now.size();
      for (size_t u = 0; u < now.size(); ++u) {
        if (now[u] <= need[u]) continue;
        if (donor == now.size() || bounds[u][now[u] - 1] < bounds[donor][now[donor] - 1]) donor = u;
      }
      if (donor == now.size()) return {};
      --now[donor];
      ++now[s];
    }
  return now;
}

// Which workers go where: from the last pipelines of a giving stage to the first dead lanes.
std::vector<Move> moves_between(const Problem& problem, const Counts& now, const Counts& wanted) {
  std::vector<Move> moves;
  std::vector<std::pair<uint32_t, uint32_t>> movable;  // stage, pipeline
  for (uint32_t s = 0; s < now.size(); ++s)
    for (uint32_t i = now[s]; i > wanted[s]; --i)
      movable.emplace_back(s, problem.stages[s].lanes[i - 1]);
  auto next = movable.begin();
  for (uint32_t s = 0; s < now.size(); ++s) {
    const auto& lanes = problem.stages[s].lanes;
    uint32_t pipeline = 0;
    for (uint32_t missing = wanted[s] > now[s] ? wanted[s] - now[s] : 0; missing > 0; --missing) {
      while (std::binary_search(lanes.begin(), lanes.end(), pipeline)) ++pipeline;
      CHECK(next != movable.end());
      moves.push_back({next->first, next->second, s, pipeline++});
      ++next;
    }
  }
  return moves;
}

double aim(const Planned& planned) {
  return barrier_of(planned.policy) == Barrier::kPerStage ? planned.timing.period
                                                          : planned.timing.makespan;
}

}  // namespace

Problem with_moves(const Problem& problem, const std::vector<Move>& moves) {
  Problem moved = problem;
  for (const Move& move : moves) {
    auto& from = moved.stages[move.from_stage].lanes;
    from.erase(std::find(from.begin(), from.end(), move.from_pipeline));
    auto& to = moved.stages[move.to_stage].lanes;
    to.insert(std::lower_bound(to.begin(), to.end(), move.to_pipeline), move.to_pipeline);
  }
  return moved;
}

Result<std::vector<Proposal>> propose_moves(const Problem& problem, Policy policy,
                                            const std::vector<uint64_t>& stage_bytes) {
  ASSIGN_OR_RETURN(const Planned planned, plan_step(problem, policy));
  std::vector<Proposal> proposals;
  if (policy == Policy::kOneForwardOneBackward) return proposals;
  const double before = aim(planned);
  const StageBounds bounds = all_stage_bounds(problem);
  Counts now;
  for (const StageProblem& stage : problem.stages)
    now.push_back(static_cast<uint32_t>(stage.lanes.size()));
  // Every period that some stage could be the limit of, from easy to hard.
  std::set<double, std::greater<>> periods;
  for (const auto& of_stage : bounds) periods.insert(of_stage.begin() + 1, of_stage.end());
  double best = before;
  size_t most_moves = 0;
  for (const double period : periods) {
    if (period >= before) continue;
    const Counts wanted = target(bounds, now, period);
    if (wanted.empty()) break;  // harder ones are not possible either
    Proposal proposal;
    proposal.moves = moves_between(problem, now, wanted);
    if (proposal.moves.size() <= most_moves) continue;
    most_moves = proposal.moves.size();
    for (const Move& move : proposal.moves)
      if (!stage_bytes.empty()) proposal.bytes += stage_bytes[move.to_stage];
    ASSIGN_OR_RETURN(const Planned moved, plan_step(with_moves(problem, proposal.moves), policy));
    proposal.before = before;
    proposal.after = aim(moved);
    if (proposal.after >= best - 1e-9 * best) continue;
    best = proposal.after;
    proposals.push_back(std::move(proposal));
  }
  return proposals;
}

}  // namespace holdfast::train
