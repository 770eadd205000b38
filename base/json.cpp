#include "base/json.h"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/src.hpp>
#include <boost/json/value_stack.hpp>
#include <charconv>

namespace holdfast {
namespace {

namespace json = boost::json;

// Builds a value as json::parse does, but converts doubles exactly: Boost 1.81 is off by one in the
// last place for one number in thirteen, and losses are compared bit for bit.
struct ExactHandler {
  static constexpr std::size_t max_object_size = json::object::max_size();
  static constexpr std::size_t max_array_size = json::array::max_size();
  static constexpr std::size_t max_key_size = json::string::max_size();
  static constexpr std::size_t max_string_size = json::string::max_size();
  using Code = json::error_code;
  using Text = json::string_view;

  json::value_stack stack;
  std::string number;  // the parts of a number that arrived so far

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }
  bool on_object_begin(Code&) { return true; }
  bool on_object_end(std::size_t n, Code&) {
    stack.push_object(n);
    return true;
  }
  bool on_array_begin(Code&) { return true; }
  bool on_array_end(std::size_t n, Code&) {
    stack.push_array(n);
    return true;
  }
  bool on_key_part(Text s, std::size_t, Code&) {
    stack.push_chars(s);
    return true;
  }
  bool on_key(Text s, std::size_t, Code&) {
    stack.push_key(s);
    return true;
  }
  bool on_string_part(Text s, std::size_t, Code&) {
    stack.push_chars(s);
    return true;
  }
  bool on_string(Text s, std::size_t, Code&) {
    stack.push_string(s);
    return true;
  }
  bool on_number_part(Text s, Code&) {
    number.append(s.data(), s.size());
    return true;
  }
  bool on_int64(std::int64_t i, Text, Code&) {
    number.clear();
    stack.push_int64(i);
    return true;
  }
  bool on_uint64(std::uint64_t u, Text, Code&) {
    number.clear();
    stack.push_uint64(u);
    return true;
  }
  bool on_double(double approximate, Text s, Code&) {
    number.append(s.data(), s.size());
    double exact = approximate;
    const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), exact);
    if (code != std::errc()) exact = approximate;  // out of range: infinity or zero, as parsed
    number.clear();
    stack.push_double(exact);
    return true;
  }
  bool on_bool(bool b, Code&) {
    stack.push_bool(b);
    return true;
  }
  bool on_null(Code&) {
    stack.push_null();
    return true;
  }
  bool on_comment_part(Text, Code&) { return true; }
  bool on_comment(Text, Code&) { return true; }
};

}  // namespace

void tag_invoke(json::value_from_tag, json::value& out, const ErrorCode& code) {
  out = static_cast<uint64_t>(code);
}

json::result<ErrorCode> tag_invoke(json::try_value_to_tag<ErrorCode>, const json::value& in) {
  auto number = json::try_value_to<uint16_t>(in);
  if (!number) return number.error();
  for (const ErrorRow& row : error_table())
    if (static_cast<uint16_t>(row.code) == *number) return row.code;
  return ErrorCode::kInternal;
}

Result<json::value> parse_json(std::string_view text, std::string_view what) {
  json::basic_parser<ExactHandler> parser{json::parse_options()};
  json::error_code code;
  const std::size_t used = parser.write_some(false, text.data(), text.size(), code);
  if (!code && used < text.size()) code = json::error::extra_data;
  if (code) return fail(ErrorCode::kBadMessage, std::string(what) + ": " + code.message());
  return parser.handler().stack.release();
}

}  // namespace holdfast
