// One message for every value out of range.
#pragma once

#include <fmt/format.h>

#include "base/result.h"

namespace holdfast::conf {

template <class Value, class Bound>
Status in_range(const char* key, Value value, Bound least, Bound most) {
  if (value >= static_cast<Value>(least) && value <= static_cast<Value>(most)) return {};
  return fail(ErrorCode::kConfigValue,
              fmt::format("{} = {} is not in the range {} to {}", key, value, least, most));
}

}  // namespace holdfast::conf
