// CHECK(condition, "format", args...): for programmer errors only, on in every build. It says where,
// then aborts; it is never used for bad input, a full disk or a dead peer.
#pragma once

#include <fmt/format.h>

#include <string>

namespace holdfast::internal {
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& message);
}  // namespace holdfast::internal

#define CHECK(condition, ...)                                                        \
  do {                                                                               \
    if (!(condition)) [[unlikely]]                                                   \
      ::holdfast::internal::check_failed(__FILE__, __LINE__, #condition,             \
                                         ::fmt::format("" __VA_ARGS__));             \
  } while (false)
