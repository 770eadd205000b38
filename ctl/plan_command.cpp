#include <fmt/format.h>

#include "ctl/commands.h"
#include "ctl/plan/report.h"
#include "train/schedule/exact.h"

namespace holdfast::ctl {
namespace {

Result<train::Planned> plan(const PlanArguments& arguments, const PlanRequest& request) {
  if (arguments.solver == "exact")
    return train::plan_exactly(request.problem, request.policy, arguments.seconds);
  return train::plan_step(request.problem, request.policy);
}

// What failures cost, and what could be done about them.
Status add_failures(PlanReport& report) {
  const PlanRequest& request = report.request;
  if (request.failures.empty()) return {};
  train::Problem whole = request.problem;
  const train::Problem all = train::uniform_problem(
      whole.pipelines, static_cast<uint32_t>(whole.stages.size()), whole.micro_batches);
  for (size_t s = 0; s < whole.stages.size(); ++s) whole.stages[s].lanes = all.stages[s].lanes;
  ASSIGN_OR_RETURN(const train::Planned fault_free, train::plan_step(whole, request.policy));
  report.fault_free_period = fault_free.timing.period;
  ASSIGN_OR_RETURN(report.proposals,
                   train::propose_moves(request.problem, request.policy, request.stage_bytes));
  return {};
}

}  // namespace

Status show_plan(const PlanArguments& arguments) {
  PlanReport report;
  ASSIGN_OR_RETURN(report.request, read_request(arguments));
  report.solver = arguments.solver;
  ASSIGN_OR_RETURN(report.planned, plan(arguments, report.request));
  if (arguments.output == "table" || arguments.output == "json")
    RETURN_IF_ERROR(add_failures(report));
  const std::string text = arguments.output == "json"    ? plan_json(report)
                           : arguments.output == "svg"   ? plan_svg(report)
                           : arguments.output == "trace" ? plan_trace(report)
                                                         : plan_table(report);
  fmt::print("{}", text);
  return {};
}

}  // namespace holdfast::ctl
