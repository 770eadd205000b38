// Running out of memory is no programmer's error: it ends the step, not the process.
#pragma once

#include <fmt/format.h>

#include <new>

#include "base/result.h"

namespace holdfast::train {

inline tl::unexpected<Error> out_of_memory(const std::bad_alloc& error) {
  return fail(ErrorCode::kDeviceMemory,
              fmt::format("this lane has no room for its shards and micro-batch: {}", error.what()));
}

}  // namespace holdfast::train
