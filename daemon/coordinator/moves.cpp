#include "daemon/coordinator/moves.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "daemon/coordinator/base.h"
#include "train/schedule/bounds.h"
#include "train/schedule/normalize.h"

namespace holdfast::daemon {
namespace {

constexpr double kLeastGain = 0.05;  // of a step
constexpr double kSteps = 100;       // in which moves must have paid
constexpr double kBytesPerSecond = 250e6;
// D M S. Several plans are made, and nothing else is decided meanwhile: some 2 s for so many.
constexpr uint64_t kMostCells = 32'768;

// A stage that limits the step lacks lanes, and another could spare one. Cheap: most views end here.
bool worth_planning(const train::Problem& problem) {
  const uint64_t cells = uint64_t{problem.total()} * problem.stages.size();
  if (problem.stages.size() < 2 || cells > kMostCells) return false;
  double slowest = 0, sparing = 0;
  for (uint32_t s = 0; s < problem.stages.size(); ++s) {
    const auto lanes = static_cast<uint32_t>(problem.stages[s].lanes.size());
    if (lanes < problem.pipelines)
      slowest = std::max(slowest, train::stage_bound(problem, s, lanes));
    if (lanes < 2) continue;
    const double after = train::stage_bound(problem, s, lanes - 1);
    sparing = sparing == 0 ? after : std::min(sparing, after);
  }
  return sparing > 0 && slowest * (1 - kLeastGain) > sparing;
}

// Seconds that a proposal saves in kSteps steps, its own cost taken off; nullopt: it does not pay.
std::optional<double> worth(const train::Proposal& proposal, double step_seconds) {
  const double gain = proposal.gain() / proposal.before;
  if (gain < kLeastGain) return std::nullopt;
  if (step_seconds <= 0) return gain;
  const double saved = kSteps * step_seconds * gain -
                       static_cast<double>(proposal.bytes) / kBytesPerSecond;
  return saved > 0 ? std::optional(saved) : std::nullopt;
}

// State of one lane of each stage.
std::vector<uint64_t> lane_bytes(const DecideInput& input, const train::LanesByStage& lanes) {
  std::vector<uint64_t> bytes(lanes.size());
  for (size_t shard = 0; shard < input.shards.bytes.size(); ++shard)
    bytes[input.shards.stage[shard].value] += input.shards.bytes[shard];
  for (size_t s = 0; s < lanes.size(); ++s) bytes[s] /= lanes[s].size();
  return bytes;
}

bool is_newcomer(const DecideInput& input, const WorkerId& worker) {
  return std::none_of(input.previous.begin(), input.previous.end(),
                      [&](const Member& m) { return m.worker == worker; });
}

// Lanes of a stage are alike to a plan: one goes that gives no place up, else the one that has most of its
// new stage at hand.
std::vector<Member> carry_out(const DecideInput& input, const Holdings& holdings,
                              std::vector<Member> members, const StateVersion& base,
                              const std::vector<train::Move>& moves) {
  for (const train::Move& move : moves) {
    const Coordinate to{PipelineIndex(move.to_pipeline), StageIndex(move.to_stage)};
    std::optional<Coordinate> from;
    std::pair<bool, uint64_t> least;
    for (const Member& m : members) {
      if (m.coordinate.stage != StageIndex(move.from_stage)) continue;
      const std::pair cost(!is_newcomer(input, m.worker),
                           bytes_to_fetch(input, holdings, base, m.worker, to.stage));
      if (from && cost > least) continue;
      from = m.coordinate;
      least = cost;
    }
    members = with_move(std::move(members), *from, to);
  }
  return members;
}

}  // namespace

Normalization normalize(const DecideInput& input, const Holdings& holdings,
                        std::vector<Member> members, const StateVersion& base) {
  Normalization result{std::move(members), "", ""};
  if (input.job.stages < 2 || input.job.snapshot.policy == "none") return result;
  const auto lanes = lanes_by_stage(result.members, input.job.stages);
  const train::Problem problem = train::problem_of_job(input.job, lanes);
  if (!worth_planning(problem)) return result;
  // As plan_of_job plans the steps of several stages.
  const auto proposals =
      train::propose_moves(problem, train::policy_of_job(input.job), lane_bytes(input, lanes));
  if (!proposals) return result;  // not a problem that plans are made for
  const train::Proposal* best = nullptr;
  double most = 0;
  for (const train::Proposal& proposal : *proposals) {
    const auto saved = worth(proposal, input.step_seconds);
    if (!saved || *saved <= most) continue;
    best = &proposal;
    most = *saved;
  }
  if (best == nullptr) return result;
  const std::string text = fmt::format("a step takes {:.4g} -> {:.4g} units of the plan",
                                       best->before, best->after);
  auto moved = carry_out(input, holdings, result.members, base, best->moves);
  if (!can_begin_with(input, holdings, moved, base)) {
    result.later = text;
    return result;
  }
  result.members = std::move(moved);
  result.text = text;
  return result;
}

}  // namespace holdfast::daemon
