#include "daemon/node/arena_verifier.h"

#include <algorithm>

namespace holdfast::daemon {

using storage::BlockInfo;

namespace {

// Between two batches a helper does what else was given aside.
constexpr uint64_t kBatchBytes = 16 << 20;

}  // namespace

void ArenaVerifier::verify(const NodeJob& job, Done done) {
  Request request{job.hash, job.layout.slices(), std::move(done)};
  if (running_) {
    waiting_ = std::move(request);
  } else {
    start(std::move(request));
  }
}

void ArenaVerifier::add(Run& run, const BlockInfo& block) {
  run.contents.held[block.header->state].insert(block.header->shard.flat(run.request.slices));
}

void ArenaVerifier::start(Request request) {
  running_ = true;
  auto run = std::make_shared<Run>();
  run->request = std::move(request);
  for (const BlockInfo& block : arena_.scan()) {
    if (!block.header || block.header->job != run->request.job_hash) continue;
    if (arena_.was_verified(block)) {
      add(*run, block);
    } else {
      run->unknown.push_back(block);
    }
  }
  run->helpers = std::max<size_t>(loop_.helpers(), 1);
  for (size_t i = run->helpers; i > 0; --i) next_batch(run);
}

void ArenaVerifier::next_batch(const std::shared_ptr<Run>& run) {
  if (run->next == run->unknown.size()) {
    if (--run->helpers == 0) finish(run);
    return;
  }
  const size_t begin = run->next;
  for (uint64_t bytes = 0; run->next < run->unknown.size() && bytes < kBatchBytes; ++run->next)
    bytes += run->unknown[run->next].header->length;
  auto faults = std::make_shared<std::vector<std::optional<Error>>>(run->next - begin);
  loop_.aside(
      [run, begin, faults, &arena = arena_] {
        for (size_t i = 0; i < faults->size(); ++i) {
          const BlockInfo& block = run->unknown[begin + i];
          if (auto bytes = arena.read_verified(block.index, *block.header); !bytes)
            (*faults)[i] = std::move(bytes).error();
        }
      },
      [this, run, begin, faults] {
        for (size_t i = 0; i < faults->size(); ++i) {
          const BlockInfo& block = run->unknown[begin + i];
          if ((*faults)[i]) {
            run->contents.damaged.emplace_back(block, *(*faults)[i]);
          } else {
            add(*run, block);
          }
        }
        next_batch(run);
      });
}

void ArenaVerifier::finish(const std::shared_ptr<Run>& run) {
  running_ = false;
  if (auto next = std::exchange(waiting_, std::nullopt)) start(std::move(*next));
  run->request.done(run->contents);
}

}  // namespace holdfast::daemon
