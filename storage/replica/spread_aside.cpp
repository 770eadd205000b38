#include "storage/replica/spread_aside.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace holdfast::storage {
namespace {

// As many as checksums can use of a machine's memory bandwidth.
constexpr size_t kMostAtOnce = 8;

struct Whole {
  Executor& executor;
  size_t count;
  std::function<void(size_t)> work;
  std::function<void()> done;
  size_t next = 0, under_way = 0;  // of the event loop
};

void go_on(const std::shared_ptr<Whole>& whole) {
  if (whole->next == whole->count) {
    if (whole->under_way == 0) std::exchange(whole->done, nullptr)();
    return;
  }
  ++whole->under_way;
  whole->executor.aside([whole, i = whole->next++] { whole->work(i); },
                        [whole] {
                          --whole->under_way;
                          go_on(whole);
                        });
}

}  // namespace

void spread_aside(Executor& executor, size_t count, std::function<void(size_t)> work,
                  std::function<void()> done) {
  if (count == 0) {
    executor.post(std::move(done));
    return;
  }
  const size_t others = executor.helpers() > 1 ? executor.helpers() - 1 : 1;
  auto whole = std::make_shared<Whole>(Whole{executor, count, std::move(work), std::move(done)});
  for (size_t i = std::min({count, others, kMostAtOnce}); i > 0; --i) go_on(whole);
}

}  // namespace holdfast::storage
