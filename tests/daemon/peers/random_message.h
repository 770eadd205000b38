// Fills any described struct with random values, so that codecs meet every member.
#pragma once

#include <boost/describe.hpp>
#include <boost/mp11.hpp>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/ids.h"
#include "base/json.h"

namespace holdfast::daemon::test {

using Random = std::mt19937_64;

inline uint64_t below(Random& random, uint64_t limit) { return random() % limit; }

template <class Tag, class Rep>
void fill(Random& random, StrongId<Tag, Rep>& id);
template <class T>
void fill(Random& random, std::vector<T>& list);
template <class T>
void fill(Random& random, std::optional<T>& value);

inline void fill(Random& random, std::string& text) {
  static constexpr std::string_view kLetters = "abz09 \"\\/\n\t{}[]:,\xC3\xA4";
  text.clear();
  for (uint64_t n = below(random, 12); n > 0; --n) {
    const uint64_t at = below(random, kLetters.size());
    text += at >= kLetters.size() - 2 ? "\xC3\xA4" : std::string(1, kLetters[at]);
  }
}
inline void fill(Random& random, bool& value) { value = below(random, 2) == 1; }
inline void fill(Random& random, double& value) {
  value =
      std::ldexp(static_cast<double>(random()) - 9e18, static_cast<int>(below(random, 200)) - 130);
}
inline void fill(Random& random, ErrorCode& code) {
  code = error_table()[below(random, error_table().size())].code;
}
template <class T>
requires std::is_integral_v<T>
void fill(Random& random, T& value) {
  value = static_cast<T>(random() >> below(random, 64));  // small ones and the largest
}
template <class T>
requires std::is_enum_v<T>
void fill(Random& random, T& value) {
  using Values = boost::describe::describe_enumerators<T>;
  const uint64_t chosen = below(random, boost::mp11::mp_size<Values>::value);
  uint64_t at = 0;
  boost::mp11::mp_for_each<Values>([&](auto enumerator) {
    if (at++ == chosen) value = enumerator.value;
  });
}
template <class T>
requires std::is_class_v<T>
void fill(Random& random, T& value) {
  using Members = boost::describe::describe_members<T, boost::describe::mod_public>;
  boost::mp11::mp_for_each<Members>([&](auto member) { fill(random, value.*member.pointer); });
}
template <class Tag, class Rep>
void fill(Random& random, StrongId<Tag, Rep>& id) {
  fill(random, id.value);
}
template <class T>
void fill(Random& random, std::vector<T>& list) {
  list.resize(below(random, 4));
  for (T& element : list) fill(random, element);
}
template <class T>
void fill(Random& random, std::optional<T>& value) {
  value.reset();
  if (below(random, 2) == 1) fill(random, value.emplace());
}

// One of each alternative in turn.
template <class Variant>
Variant random_alternative(Random& random, size_t index) {
  Variant message;
  boost::mp11::mp_with_index<std::variant_size_v<Variant>>(
      index, [&](auto i) { fill(random, message.template emplace<i>()); });
  return message;
}

}  // namespace holdfast::daemon::test
