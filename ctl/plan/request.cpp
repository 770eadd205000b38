#include "ctl/plan/request.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "conf/node_config.h"

namespace holdfast::ctl {
namespace {

std::vector<std::string> split(const std::string& text, char between) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end; (end = text.find(between, begin)) != std::string::npos; begin = end + 1)
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

template <class Number>
bool read(const std::string& text, Number& value) {
  const auto [rest, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && rest == text.data() + text.size() && !text.empty();
}

tl::unexpected<Error> bad(const char* option, const std::string& text, const std::string& wanted) {
  return fail(ErrorCode::kUsage, fmt::format("{} {}: {}", option, text, wanted));
}

// One part for every stage, or one for all.
Result<std::vector<std::string>> by_stage(const char* option, const std::string& text, char between,
                                          uint32_t stages) {
  std::vector<std::string> parts = split(text, between);
  if (parts.size() == 1) parts.resize(stages, parts.front());
  if (parts.size() != stages)
    return bad(option, text, fmt::format("one for all, or one for each of {} stages", stages));
  return parts;
}

Status read_failures(const PlanArguments& arguments, PlanRequest& request) {
  if (arguments.fail.empty()) return {};
  for (const std::string& word : split(arguments.fail, ',')) {
    const std::vector<std::string> pair = split(word, ':');
    uint32_t d = 0, s = 0;
    if (pair.size() != 2 || !read(pair[0], d) || !read(pair[1], s))
      return bad("--fail", word, "pipeline:stage, both counted from 0, as 1:2");
    RETURN_IF_ERROR(train::remove_lane(request.problem, d, s));
    request.failures.emplace_back(d, s);
  }
  return {};
}

Status read_caps(const PlanArguments& arguments, train::Problem& problem) {
  if (arguments.caps.empty()) return {};
  ASSIGN_OR_RETURN(const auto parts, by_stage("--caps", arguments.caps, ',', arguments.stages));
  for (uint32_t s = 0; s < arguments.stages; ++s)
    if (!read(parts[s], problem.stages[s].cap) || problem.stages[s].cap == 0)
      return bad("--caps", parts[s], "micro-batches a lane may hold, at least 1");
  return {};
}

Status read_stage_costs(const std::string& text, double share, train::StageCosts& costs) {
  const std::vector<std::string> words = split(text, ',');
  double numbers[5] = {1, 1, 1, 0, 0};
  if (words.size() < 3 || words.size() > 5)
    return bad("--costs", text, "3 to 5 numbers: F,I,W,comm,update");
  for (size_t i = 0; i < words.size(); ++i)
    if (!read(words[i], numbers[i]) || !std::isfinite(numbers[i]) || numbers[i] < 0)
      return bad("--costs", words[i], "a cost is a number from 0 on");
  const auto of = [share](double cost) {
    return train::WorkCost{cost * (1 - share), cost * share};
  };
  costs.forward = of(numbers[0]);
  costs.input = of(numbers[1]);
  costs.weight = of(numbers[2]);
  costs.send = numbers[3];
  costs.update = numbers[4];
  return {};
}

Status read_costs(const PlanArguments& arguments, train::Problem& problem) {
  const std::string text = arguments.costs.empty() ? "1,1,1,0,0" : arguments.costs;
  ASSIGN_OR_RETURN(const auto parts, by_stage("--costs", text, '/', arguments.stages));
  for (uint32_t s = 0; s < arguments.stages; ++s)
    RETURN_IF_ERROR(read_stage_costs(parts[s], arguments.expert_share, problem.stages[s].costs));
  return {};
}

Result<std::vector<uint64_t>> read_stage_bytes(const PlanArguments& arguments) {
  std::vector<uint64_t> bytes;
  if (arguments.stage_bytes.empty()) return bytes;
  ASSIGN_OR_RETURN(const auto parts,
                   by_stage("--stage-bytes", arguments.stage_bytes, ',', arguments.stages));
  for (const std::string& part : parts) {
    ASSIGN_OR_RETURN(const uint64_t one, conf::parse_bytes(part));
    bytes.push_back(one);
  }
  return bytes;
}

Result<train::Policy> read_policy(const std::string& name) {
  using train::Policy;
  if (name == "1f1b") return Policy::kOneForwardOneBackward;
  if (name == "reroute") return Policy::kReroute;
  if (name == "split") return Policy::kSplit;
  if (name == "staggered") return Policy::kStaggered;
  return bad("--policy", name, "1f1b, reroute, split or staggered");
}

}  // namespace

Result<PlanRequest> read_request(const PlanArguments& arguments) {
  PlanRequest request;
  // Before anything is made by these numbers.
  const uint64_t cells = uint64_t{arguments.pipelines} * arguments.stages * arguments.micro_batches;
  if (arguments.pipelines <= train::kMostPipelines && arguments.stages <= train::kMostStages &&
      arguments.micro_batches <= train::kMostMicroBatches && cells > train::kMostCells)
    return fail(ErrorCode::kPlanImpossible,
                fmt::format("pipelines x stages x micro-batches = {}, it must be at most {}", cells,
                            train::kMostCells));
  request.problem =
      train::uniform_problem(arguments.pipelines, arguments.stages, arguments.micro_batches);
  ASSIGN_OR_RETURN(request.policy, read_policy(arguments.policy));
  RETURN_IF_ERROR(read_costs(arguments, request.problem));
  RETURN_IF_ERROR(read_caps(arguments, request.problem));
  RETURN_IF_ERROR(read_failures(arguments, request));
  ASSIGN_OR_RETURN(request.stage_bytes, read_stage_bytes(arguments));
  request.caps_given = !arguments.caps.empty();
  RETURN_IF_ERROR(train::check_problem(request.problem));
  return request;
}

}  // namespace holdfast::ctl
