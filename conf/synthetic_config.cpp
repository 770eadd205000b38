#include "conf/synthetic_config.h"

#include <fmt/format.h>

#include "conf/range.h"

namespace holdfast::conf {
namespace {

constexpr double kLeastMs = 1;  // below that the machine's own time is what is seen
constexpr double kMostMs = 60'000;

}  // namespace

Status validate(const SyntheticConfig& s) {
  RETURN_IF_ERROR(in_range("synthetic.forward_ms", s.forward_ms, kLeastMs, kMostMs));
  RETURN_IF_ERROR(in_range("synthetic.input_gradient_ms", s.input_gradient_ms, kLeastMs, kMostMs));
  RETURN_IF_ERROR(
      in_range("synthetic.weight_gradient_ms", s.weight_gradient_ms, kLeastMs, kMostMs));
  RETURN_IF_ERROR(in_range("synthetic.experts_ms", s.experts_ms, 0.0, kMostMs));
  RETURN_IF_ERROR(in_range("synthetic.update_ms", s.update_ms, 0.0, kMostMs));
  if (s.policy == "split" || s.policy == "reroute") return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("synthetic.policy = \"{}\" must be \"split\" or \"reroute\"", s.policy));
}

}  // namespace holdfast::conf
