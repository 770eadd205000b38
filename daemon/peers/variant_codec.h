// A variant of described structs as {"type", "body"} and back. Private to daemon/peers.
#pragma once

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>
#include <variant>

#include "base/json.h"

namespace holdfast::daemon {

// Names of the alternatives in their order.
template <size_t N>
using TypeNames = std::array<std::string_view, N>;

template <size_t N, class Variant>
boost::json::value encode_variant(const Variant& value, const TypeNames<N>& names) {
  static_assert(N == std::variant_size_v<Variant>);
  boost::json::object object;
  object["type"] =
      boost::json::string_view(names[value.index()].data(), names[value.index()].size());
  object["body"] =
      std::visit([](const auto& body) { return boost::json::value_from(body); }, value);
  return object;
}

template <class Variant, size_t I, size_t N>
Result<Variant> decode_alternative(std::string_view type, const boost::json::value& body,
                                   const TypeNames<N>& names) {
  if constexpr (I == N) {
    return fail(ErrorCode::kBadMessage, fmt::format("unknown message type \"{}\"", type));
  } else {
    if (names[I] != type) return decode_alternative<Variant, I + 1>(type, body, names);
    ASSIGN_OR_RETURN(auto value, (from_json<std::variant_alternative_t<I, Variant>>(body, type)));
    return Variant(std::in_place_index<I>, std::move(value));
  }
}

template <class Variant, size_t N>
Result<Variant> decode_variant(const boost::json::value& json, const TypeNames<N>& names) {
  static_assert(N == std::variant_size_v<Variant>);
  const boost::json::object* object = json.if_object();
  const boost::json::value* type = object == nullptr ? nullptr : object->if_contains("type");
  const boost::json::value* body = object == nullptr ? nullptr : object->if_contains("body");
  if (type == nullptr || !type->is_string() || body == nullptr || object->size() != 2)
    return fail(ErrorCode::kBadMessage, "a message must be {\"type\": \"...\", \"body\": {...}}");
  const boost::json::string& name = type->get_string();
  return decode_alternative<Variant, 0>(std::string_view(name.data(), name.size()), *body, names);
}

}  // namespace holdfast::daemon
