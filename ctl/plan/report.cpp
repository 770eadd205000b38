#include "ctl/plan/report.h"

#include <fmt/format.h>

namespace holdfast::ctl {

std::string number_text(double value) {
  std::string text = fmt::format("{:.2f}", value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string lane_text(uint32_t pipeline, uint32_t stage) {
  return fmt::format("{}:{}", pipeline, stage);
}

std::string plan_title(const PlanReport& report) {
  const train::Problem& problem = report.request.problem;
  const auto plural = [](size_t count, const char* word, const char* more) {
    return fmt::format("{} {}{}", count, word, count == 1 ? "" : more);
  };
  return fmt::format("{}, {} of {}, {} each", train::name_of(report.planned.policy),
                     plural(problem.pipelines, "pipeline", "s"),
                     plural(problem.stages.size(), "stage", "s"),
                     plural(problem.micro_batches, "micro-batch", "es"));
}

}  // namespace holdfast::ctl
