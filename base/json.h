// JSON text to described structs and back. A struct takes part by BOOST_DESCRIBE_STRUCT(Type, (),
// (members...)); strong ids and epochs are written as plain numbers or strings. Unknown, missing and
// mistyped members are errors: both ends run the same release, see ErrorCode::kClusterVersion.
#pragma once

#include <boost/describe.hpp>
#include <boost/json.hpp>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"

namespace holdfast {

template <class Tag, class Rep>
void tag_invoke(boost::json::value_from_tag, boost::json::value& out,
                const StrongId<Tag, Rep>& id) {
  out = boost::json::value_from(id.value);
}
template <class Tag, class Rep>
boost::json::result<StrongId<Tag, Rep>> tag_invoke(
    boost::json::try_value_to_tag<StrongId<Tag, Rep>>, const boost::json::value& in) {
  auto rep = boost::json::try_value_to<Rep>(in);
  if (!rep) return rep.error();
  return StrongId<Tag, Rep>(std::move(*rep));
}

BOOST_DESCRIBE_STRUCT(Coordinate, (), (pipeline, stage))
BOOST_DESCRIBE_STRUCT(Epoch, (), (incarnation, number))
BOOST_DESCRIBE_STRUCT(ShardId, (), (group, slice))
BOOST_DESCRIBE_STRUCT(StateVersion, (), (version, made))
BOOST_DESCRIBE_STRUCT(Error, (), (code, message))
// Written as their numbers.
void tag_invoke(boost::json::value_from_tag, boost::json::value& out, const ErrorCode& code);
boost::json::result<ErrorCode> tag_invoke(boost::json::try_value_to_tag<ErrorCode>,
                                          const boost::json::value& in);

// kBadMessage with `what` (for example "heartbeat from node-2") and the parser's reason.
Result<boost::json::value> parse_json(std::string_view text, std::string_view what);

template <class T>
Result<T> from_json(const boost::json::value& value, std::string_view what) {
  auto result = boost::json::try_value_to<T>(value);
  if (!result)
    return fail(ErrorCode::kBadMessage, std::string(what) + ": " + result.error().message());
  return std::move(*result);
}

template <class T>
Result<T> from_json_text(std::string_view text, std::string_view what) {
  ASSIGN_OR_RETURN(boost::json::value value, parse_json(text, what));
  return from_json<T>(value, what);
}

template <class T>
std::string to_json_text(const T& value) {
  return boost::json::serialize(boost::json::value_from(value));
}

}  // namespace holdfast
