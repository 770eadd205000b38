// Many like pieces of work done aside, by several helper threads at once.
#pragma once

#include <cstddef>
#include <functional>

#include "storage/replica/executor.h"

namespace holdfast::storage {

// Calls work(i) for every i below `count`, aside, then `done` once on the event loop. `work` is called from
// several helper threads at once, for different i; one helper is left to others, and between two works of a
// helper whatever else was given aside has its turn.
void spread_aside(Executor& executor, size_t count, std::function<void(size_t)> work,
                  std::function<void()> done);

}  // namespace holdfast::storage
