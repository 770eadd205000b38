#include "daemon/http/error_body.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "base/json.h"

namespace holdfast::daemon {
namespace {

struct ErrorDetail {
  std::string code;
  std::string name;
  std::string message;
};
BOOST_DESCRIBE_STRUCT(ErrorDetail, (), (code, name, message))
struct ErrorBody {
  ErrorDetail error;
};
BOOST_DESCRIBE_STRUCT(ErrorBody, (), (error))

constexpr std::string_view kPrefix = "HF-";

std::optional<ErrorCode> parse_code(std::string_view text) {
  if (!text.starts_with(kPrefix)) return std::nullopt;
  text.remove_prefix(kPrefix.size());
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  for (const ErrorRow& row : error_table())
    if (static_cast<uint16_t>(row.code) == number) return row.code;
  return std::nullopt;
}

}  // namespace

// By the exit code of the table: both tell a caller what kind of failure it was.
int http_status(ErrorCode code) {
  if (code == ErrorCode::kQueueFull) return 429;
  switch (error_row(code).exit_code) {
    case 2:
      return 400;  // usage or configuration
    case 3:
      return 404;
    case 4:
      return 409;  // wrong state or conflict
    case 5:
      return 502;  // a peer cannot be reached
    case 6:
      return 504;
    case 7:
      return 500;  // damaged or foreign data
    case 8:
      return 507;
    default:
      return 500;
  }
}

std::string encode_error_body(const Error& error) {
  return to_json_text(ErrorBody{{fmt::format("{}{}", kPrefix, static_cast<int>(error.code)),
                                 std::string(error_row(error.code).name), error.message}});
}

Error decode_error_body(int status, std::string_view body, std::string_view what) {
  auto decoded = from_json_text<ErrorBody>(body, what);
  if (decoded)
    if (const auto code = parse_code(decoded->error.code))
      return Error{*code, std::move(decoded->error.message)};
  constexpr size_t kShown = 200;  // bytes of a body that nobody expected
  return Error{ErrorCode::kBadMessage,
               fmt::format("{}: HTTP status {} with \"{}\"", what, status, body.substr(0, kShown))};
}

}  // namespace holdfast::daemon
