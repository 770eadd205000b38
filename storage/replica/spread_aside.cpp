#include "storage/replica/spread_aside.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace holdfast::storage {
namespace {

// As many as checksums can use of a machine's memory bandwidth.
constexpr size_t kParts = 8;

}  // namespace

void spread_aside(Executor& executor, size_t count, std::function<void(size_t)> work,
                  std::function<void()> done) {
  const size_t parts = std::clamp<size_t>(count, 1, kParts);
  struct Whole {
    std::function<void(size_t)> work;
    std::function<void()> done;
    size_t parts_left;  // of the event loop
  };
  auto whole = std::make_shared<Whole>(Whole{std::move(work), std::move(done), parts});
  for (size_t part = 0; part < parts; ++part)
    executor.aside(
        [whole, part, parts, count] {
          for (size_t i = part; i < count; i += parts) whole->work(i);
        },
        [whole] {
          if (--whole->parts_left == 0) whole->done();
        });
}

}  // namespace holdfast::storage
