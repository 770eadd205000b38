// Where replication runs. Everything of Replicator and ReplicaServer happens on one event loop;
// what would hold it up is done aside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace holdfast::storage {

class Executor {
 public:
  virtual ~Executor() = default;
  // Runs `action` on the event loop, later. The only call that may come from any thread.
  virtual void post(std::function<void()> action) = 0;
  // Runs `work` on a helper thread, then `done` on the event loop.
  virtual void aside(std::function<void()> work, std::function<void()> done) = 0;
  // How many works are done aside at the same time.
  virtual size_t helpers() const = 0;
  virtual void after_ms(int64_t ms, std::function<void()> action) = 0;
};

}  // namespace holdfast::storage
