// Many like pieces of work done aside, by several helper threads at once.
#pragma once

#include <cstddef>
#include <functional>

#include "storage/replica/executor.h"

namespace holdfast::storage {

// Calls work(i) for every i below `count`, aside, in a few parts that may run at the same time, then `done`
// once on the event loop. `work` is called from several threads, for different i.
void spread_aside(Executor& executor, size_t count, std::function<void(size_t)> work,
                  std::function<void()> done);

}  // namespace holdfast::storage
