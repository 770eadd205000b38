#include "base/json.h"

#include <boost/json/src.hpp>

namespace holdfast {

void tag_invoke(boost::json::value_from_tag, boost::json::value& out, const ErrorCode& code) {
  out = static_cast<uint64_t>(code);
}

boost::json::result<ErrorCode> tag_invoke(boost::json::try_value_to_tag<ErrorCode>,
                                          const boost::json::value& in) {
  auto number = boost::json::try_value_to<uint16_t>(in);
  if (!number) return number.error();
  for (const ErrorRow& row : error_table())
    if (static_cast<uint16_t>(row.code) == *number) return row.code;
  return ErrorCode::kInternal;
}

Result<boost::json::value> parse_json(std::string_view text, std::string_view what) {
  boost::system::error_code code;
  boost::json::value value = boost::json::parse(text, code);
  if (code) return fail(ErrorCode::kBadMessage, std::string(what) + ": " + code.message());
  return value;
}

}  // namespace holdfast
