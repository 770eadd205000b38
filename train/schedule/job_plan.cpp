#include "train/schedule/job_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "train/schedule/planner.h"
#include "train/schedule/rounds.h"

namespace holdfast::train {
namespace {

// Drafts that are compared: workers plan while a view begins, and more rarely make a better plan.
constexpr uint32_t kMostTries = 500;

// Floating-point operations of one token's F, multiplications and additions.
struct TokenCost {
  double dense = 0;    // of a layer: projections, scores, router
  double experts = 0;  // of a layer: the chosen ones
  double head = 0;
  double layer() const { return dense + experts; }
};

TokenCost token_cost(const conf::ModelConfig& m) {
  const double d = m.width, d_kv = static_cast<double>(m.width / m.heads) * m.kv_heads;
  const double projections = 2 * d * (2 * d + 2 * d_kv);
  const double scores = 2 * d * m.context;  // causal: half of T positions, twice
  return {projections + scores + 2 * d * m.experts,
          2.0 * m.top_k * 3 * d * m.expert_width, 2 * d * m.vocabulary};
}

StageCosts stage_costs(const conf::ModelConfig& model, const StageLayers& stage) {
  const TokenCost cost = token_cost(model);
  const double head = stage.has_head ? cost.head : 0;
  const WorkCost work{(stage.layers * cost.dense + head) / cost.layer(),
                      stage.layers * cost.experts / cost.layer()};
  return {work, work, work, 0, 0};
}

StageCosts synthetic_costs(const conf::SyntheticConfig& s) {
  return {{s.forward_ms, s.experts_ms},
          {s.input_gradient_ms, s.experts_ms},
          {s.weight_gradient_ms, s.experts_ms},
          0,
          s.update_ms};
}

Status check_stages(const conf::JobConfig& job, const LanesByStage& lanes_by_stage) {
  if (lanes_by_stage.size() == job.stages) return {};
  return fail(ErrorCode::kPlanImpossible, fmt::format("lanes of {} stages, the job has {}",
                                                      lanes_by_stage.size(), job.stages));
}

// F of a round, then its B: one micro-batch a lane at a time.
StagePlan one_stage(const conf::JobConfig& job, std::vector<uint32_t> lanes) {
  StagePlan stage;
  for (const Round& round : plan_rounds(job.pipelines, job.micro_batches, lanes))
    for (const Work work : {Work::kForward, Work::kBackward}) {
      StageRound& cells = stage.rounds.emplace_back();
      cells.work = work;
      for (const auto& micro_batch : round.lanes)
        cells.lanes.push_back(micro_batch ? std::optional(Cell{work, *micro_batch})
                                          : std::nullopt);
    }
  stage.lanes = std::move(lanes);
  return stage;
}

}  // namespace

// The last stage gets as many layers as make the dearest stage cheapest; the others share the rest as
// evenly as can be, the earlier ones, which hold more micro-batches, less.
std::vector<StageLayers> split_layers(const conf::ModelConfig& model, uint32_t stages) {
  CHECK(stages >= 1 && stages <= model.layers, "{} stages of {} layers", stages, model.layers);
  if (stages == 1) return {whole_model(model)};
  const TokenCost cost = token_cost(model);
  const uint32_t others = stages - 1;
  const auto dearest = [&](uint32_t last) {
    const uint32_t rest = (model.layers - last + others - 1) / others;
    return std::max(rest * cost.layer(), last * cost.layer() + cost.head);
  };
  uint32_t last = 1;
  for (uint32_t more = 2; more + others <= model.layers; ++more)
    if (dearest(more) <= dearest(last)) last = more;

  std::vector<StageLayers> split;
  const uint32_t rest = model.layers - last;
  for (uint32_t s = 0; s < others; ++s) {
    const uint32_t begin = s * rest / others, end = (s + 1) * rest / others;
    split.push_back({begin, end - begin, s == 0, false});
  }
  split.push_back({rest, last, false, true});
  return split;
}

uint32_t stage_of(std::span<const StageLayers> stages, const GroupSpec& group) {
  const auto found = std::find_if(stages.begin(), stages.end(),
                                  [&](const StageLayers& stage) { return stage.has(group); });
  CHECK(found != stages.end(), "no stage has {}", group.name);
  return static_cast<uint32_t>(found - stages.begin());
}

Problem problem_of_job(const conf::JobConfig& job, LanesByStage lanes_by_stage) {
  const std::vector<StageLayers> split = split_layers(job.model, job.stages);
  CHECK(lanes_by_stage.size() == split.size());
  Problem problem{job.pipelines, job.micro_batches, {}};
  for (size_t s = 0; s < split.size(); ++s)
    problem.stages.push_back(
        {std::move(lanes_by_stage[s]),
         job.synthetic ? synthetic_costs(*job.synthetic) : stage_costs(job.model, split[s]),
         job.in_flight()});
  return problem;
}

Policy policy_of_job(const conf::JobConfig& job) {
  if (job.staggered()) return Policy::kStaggered;  // never together with [synthetic] policy = "reroute"
  return job.synthetic && job.synthetic->policy == "reroute" ? Policy::kReroute : Policy::kSplit;
}

Result<Plan> plan_of_job(const conf::JobConfig& job, LanesByStage lanes_by_stage) {
  RETURN_IF_ERROR(check_stages(job, lanes_by_stage));
  const Problem problem = problem_of_job(job, std::move(lanes_by_stage));
  if (job.stages > 1) {
    ASSIGN_OR_RETURN(Planned planned, plan_step(problem, policy_of_job(job), kMostTries));
    return std::move(planned.plan);
  }
  // Not by plan_step: pipelines that live keep their own micro-batches, and a job of one stage may have
  // more of them than plans are made for.
  const std::vector<uint32_t>& lanes = problem.stages[0].lanes;
  for (size_t i = 0; i < lanes.size(); ++i)
    if (lanes[i] >= job.pipelines || (i > 0 && lanes[i] <= lanes[i - 1]))
      return fail(ErrorCode::kPlanImpossible,
                  fmt::format("lanes must be pipelines 0 to {}, ascending", job.pipelines - 1));
  if (lanes.empty()) return fail(ErrorCode::kPlanImpossible, "no live lane");
  return Plan{job.pipelines, job.micro_batches, {one_stage(job, lanes)}};
}

std::vector<MicroBatchIndex> micro_batches_of(const Plan& plan, uint32_t stage, uint32_t lane) {
  std::vector<MicroBatchIndex> all;
  for (const StageRound& round : plan.stages[stage].rounds) {
    const auto& cell = round.lanes[lane];
    if (cell && cell->work == Work::kForward) all.push_back(cell->micro_batch);
  }
  return all;
}

}  // namespace holdfast::train
