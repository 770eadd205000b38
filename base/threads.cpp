#include "base/threads.h"

#include <system_error>
#include <thread>
#include <vector>

namespace holdfast {

void run_on_threads(size_t threads, const std::function<void()>& work) {
  std::vector<std::thread> helpers;
  helpers.reserve(threads);  // nothing may throw while one runs
  while (helpers.size() + 1 < threads) {
    try {
      helpers.emplace_back(work);
    } catch (const std::system_error&) {
      break;
    }
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace holdfast
