// What was made for a key and used lately: at most so many, of which the one that was not used for the
// longest time goes when another comes. For one thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <map>
#include <utility>

namespace holdfast::train::kernels {

template <class Key, class Value>
class Recent {
 public:
  explicit Recent(size_t most) : most_(std::max<size_t>(most, 1)) {}

  // The value of the key, and whether it was made of `arguments` just now. It may go when another key is
  // asked for.
  template <class... Arguments>
  std::pair<Value&, bool> get(const Key& key, Arguments&&... arguments) {
    const auto found = places_.find(key);
    if (found != places_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return {found->second->value, false};
    }
    if (entries_.size() == most_) {
      places_.erase(entries_.back().key);
      entries_.pop_back();
    }
    entries_.emplace_front(key, std::forward<Arguments>(arguments)...);
    places_[key] = entries_.begin();
    return {entries_.front().value, true};
  }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    template <class... Arguments>
    explicit Entry(const Key& of, Arguments&&... arguments)
        : key(of), value(std::forward<Arguments>(arguments)...) {}
    const Key key;
    Value value;
  };
  const size_t most_;
  std::list<Entry> entries_;  // used last comes first
  std::map<Key, typename std::list<Entry>::iterator> places_;
};

}  // namespace holdfast::train::kernels
