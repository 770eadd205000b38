// Errors are values: every function that can fail returns Result<T>.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

#include "base/error.h"

namespace holdfast {

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

// `return fail(ErrorCode::kArenaFull, "...")` from any function that returns a Result.
[[nodiscard]] inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}
[[nodiscard]] inline tl::unexpected<Error> fail(Error error) {
  return tl::unexpected<Error>(std::move(error));
}

}  // namespace holdfast

#define HOLDFAST_CONCAT_(a, b) a##b
#define HOLDFAST_CONCAT(a, b) HOLDFAST_CONCAT_(a, b)

// RETURN_IF_ERROR(expr): leaves the function with the error of a Status or Result.
#define RETURN_IF_ERROR(expr)                                                   \
  do {                                                                          \
    if (auto status_of_expr_ = (expr); !status_of_expr_)                        \
      return ::tl::unexpected<::holdfast::Error>(                               \
          std::move(status_of_expr_).error());                                  \
  } while (false)

// ASSIGN_OR_RETURN(auto x, expr): x is the value, or the function returns the error.
#define ASSIGN_OR_RETURN(lhs, expr)                                             \
  auto HOLDFAST_CONCAT(result_, __LINE__) = (expr);                             \
  if (!HOLDFAST_CONCAT(result_, __LINE__))                                      \
    return ::tl::unexpected<::holdfast::Error>(                                 \
        std::move(HOLDFAST_CONCAT(result_, __LINE__)).error());                 \
  lhs = std::move(*HOLDFAST_CONCAT(result_, __LINE__))
