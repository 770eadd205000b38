// Several threads at one piece of work.
#pragma once

#include <cstdint>
#include <functional>

namespace holdfast {

// Calls `work`, which must not throw, on this thread and on up to `threads` - 1 others; returns when all
// have returned. Where no more threads can be had, those that there are do it.
void run_on_threads(size_t threads, const std::function<void()>& work);

}  // namespace holdfast
