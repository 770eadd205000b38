// What both catalogs say about keys. Only storage/catalog includes this.
#pragma once

#include <string>

#include "base/error.h"

namespace holdfast::storage {

// The first key behind every key that starts with `prefix`; empty: there is none.
std::string prefix_end(const std::string& prefix);

Error swap_conflict(const std::string& key);

}  // namespace holdfast::storage
