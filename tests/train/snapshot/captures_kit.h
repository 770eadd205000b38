// Captures beside training, on whatever backend: a trainer made as a worker makes it, that copies into the
// arena, and what its captures leave there, beside what a run leaves that captured between its steps.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/train/data/data_test_help.h"
#include "tests/train/step/lanes_harness.h"
#include "train/snapshot/capture.h"

namespace holdfast::train {

constexpr uint64_t kCaptureSteps = 6;

// Told once, awaited by any number of threads.
class Told {
 public:
  void tell() {
    if (!told_.test_and_set()) promise_.set_value();
  }
  std::shared_future<void> future() const { return future_; }

 private:
  std::atomic_flag told_ = ATOMIC_FLAG_INIT;
  std::promise<void> promise_;
  const std::shared_future<void> future_{promise_.get_future()};
};

// The first `free` shards are read at once, the others when `go` has been told.
class Paced final : public Protection {
 public:
  Paced(std::unique_ptr<Protection> inner, size_t free, std::shared_future<void> go)
      : inner_(std::move(inner)), free_(free), go_(std::move(go)) {}
  StateVersion state() const override { return inner_->state(); }
  Status read_shard(uint32_t shard, std::span<std::byte> out, const PieceFn& copied) override {
    if (reads_.fetch_add(1) >= free_ &&
        go_.wait_for(std::chrono::seconds(60)) != std::future_status::ready)
      return fail(ErrorCode::kInternal, "the test never said go");
    return inner_->read_shard(shard, out, copied);
  }

 private:
  const std::unique_ptr<Protection> inner_;
  const size_t free_;
  const std::shared_future<void> go_;
  std::atomic<size_t> reads_{0};
};

class CapturesTest : public DataTest {
 protected:
  using Payloads = std::vector<Payload>;  // by place in owned()
  struct Taken {
    Version version;
    Result<StateVersion> outcome;
    size_t published = 0;
    Payloads payloads;  // of a capture that counts
  };
  struct Run {
    std::vector<double> losses;
    std::vector<Taken> taken;
  };
  enum class Pace {
    kAtRest,   // between two steps
    kBeside,   // half of it while the update after the next waits for the buffer
    kRevoked,  // of every second version half of it after its buffer was overwritten, others as they come
  };

  void set_up(const std::string& backend, const conf::ModelConfig& model, uint64_t arena_bytes) {
    job_.name = JobId("captures");
    job_.backend = backend;
    job_.steps = kCaptureSteps;
    job_.pipelines = 1;
    job_.micro_batches = 2;
    job_.micro_batch_sequences = 2;
    job_.evaluate_every = 0;
    job_.evaluate_micro_batches = 1;
    job_.model = model;
    std::mt19937 random(1);
    std::vector<uint16_t> tokens(40'000);
    for (uint16_t& token : tokens) token = static_cast<uint16_t>(random() % model.vocabulary);
    job_.data.path = write("text.bin", as_bytes(tokens)).string();
    // A device pins memory in tmpfs, not every file.
    arena_path_ = std::filesystem::exists("/dev/shm") ? "/dev/shm/" + folder_.filename().string()
                                                      : (folder_ / "arena").string();
    auto arena = storage::Arena::open({.path = arena_path_,
                                       .size_bytes = arena_bytes,
                                       .cluster = "test",
                                       .node = NodeId("node-0")});
    ASSERT_TRUE(arena) << arena.error().to_string();
    arena_ = std::move(*arena);
  }
  ~CapturesTest() override {
    arena_.reset();
    std::error_code ignored;
    std::filesystem::remove(arena_path_, ignored);
  }

  Run run(Pace pace, uint32_t threads) {
    Run done;
    AbortWord abort;
    // By step. A host says that it waits when it comes to the update, an accelerator's always.
    std::array<Told, kCaptureSteps + 2> waiting, ended;
    auto made = Trainer::create(job_, {0, arena_->bytes()}, abort,
                                [&](Step step, uint32_t, bool waits) {
                                  if (waits) waiting[step.value].tell();
                                });
    EXPECT_TRUE(made) << made.error().to_string();
    if (!made) return done;
    Trainer& trainer = **made;
    const auto comm = std::move(make_in_process_group(1, 60'000)[0]);
    open_trainer(trainer, plan_view(job_, {0}), 0);
    const Status materialized = trainer.materialize(*comm);
    EXPECT_TRUE(materialized) << materialized.error().to_string();

    const size_t half = trainer.owned().size() / 2;
    std::vector<std::vector<ShardBlock>> blocks;
    for (uint64_t v = 0; v < kCaptureSteps; ++v) blocks.push_back(allocate(trainer));
    std::vector<std::future<Result<StateVersion>>> captures;
    for (uint64_t v = 1; v <= kCaptureSteps; ++v) {  // the version that step v - 1 makes
      const auto step = trainer.run_step(*comm, Step(v - 1));
      EXPECT_TRUE(step) << step.error().to_string();
      if (!step) break;
      done.losses.push_back(step->loss);
      ended[v - 1].tell();
      auto guard = trainer.protect_version(Version(v), pace == Pace::kBeside ? 60'000 : 0);
      EXPECT_NE(guard, nullptr) << v;
      if (pace == Pace::kBeside && is_overwritten(v))
        guard = std::make_unique<Paced>(std::move(guard), half, waiting[v + 1].future());
      if (pace == Pace::kRevoked && is_revoked(v))
        guard = std::make_unique<Paced>(std::move(guard), half, ended[v + 1].future());
      captures.push_back(std::async(
          std::launch::async, [&, v, threads, guard = std::move(guard)]() mutable {
            const std::atomic<bool> cancelled{false};
            return capture_into(std::move(guard),
                                {*arena_, kJob, job_.slices(),
                                 [&](uint32_t shard) { return trainer.shard_bytes(shard); }, threads},
                                kEpoch, blocks[v - 1], cancelled);
          }));
      if (pace == Pace::kAtRest) captures.back().wait();
    }
    for (uint64_t v = 1; v <= captures.size(); ++v)
      done.taken.push_back(look_at(Version(v), captures[v - 1].get(), blocks[v - 1]));
    return done;
  }
  // Version v lies where step v + 1 writes.
  static bool is_overwritten(uint64_t v) { return v + 1 < kCaptureSteps; }
  static bool is_revoked(uint64_t v) { return v % 2 == 0 && is_overwritten(v); }

  // With the same losses, too: what is copied does not disturb what is computed.
  static void expect_same(const Run& run, const Run& at_rest) {
    EXPECT_EQ(run.losses, at_rest.losses);
    ASSERT_EQ(run.taken.size(), kCaptureSteps);
    ASSERT_EQ(at_rest.taken.size(), kCaptureSteps);
    for (size_t i = 0; i < kCaptureSteps; ++i) {
      const Taken& one = run.taken[i];
      if (!one.outcome) continue;
      EXPECT_EQ(one.outcome->version, one.version);
      ASSERT_EQ(one.payloads.size(), at_rest.taken[i].payloads.size());
      for (size_t s = 0; s < one.payloads.size(); ++s)
        EXPECT_TRUE(one.payloads[s] == at_rest.taken[i].payloads[s])
            << "version " << one.version.value << ", the lane's shard " << s;
    }
  }
  void expect_beside_training_as_at_rest() {
    const Run at_rest = run(Pace::kAtRest, 1);
    for (const uint32_t threads : {2U, 3U, 4U}) {
      SCOPED_TRACE(threads);
      const Run beside = run(Pace::kBeside, threads);
      for (const Taken& one : beside.taken)
        EXPECT_TRUE(one.outcome) << one.version.value << ": " << one.outcome.error().to_string();
      expect_same(beside, at_rest);
    }
  }
  void expect_nothing_of_what_was_revoked() {
    const Run at_rest = run(Pace::kAtRest, 1);
    for (const uint32_t threads : {1U, 2U, 4U}) {
      SCOPED_TRACE(threads);
      const Run raced = run(Pace::kRevoked, threads);
      for (const Taken& one : raced.taken) {
        SCOPED_TRACE("version " + std::to_string(one.version.value));
        EXPECT_FALSE(one.outcome && is_revoked(one.version.value));
        if (one.outcome) continue;
        EXPECT_EQ(one.outcome.error().code, ErrorCode::kTimeout)
            << one.outcome.error().to_string();
        EXPECT_EQ(one.published, 0U);
      }
      expect_same(raced, at_rest);
    }
  }

 private:
  static constexpr uint64_t kJob = 77;
  static constexpr Epoch kEpoch{1, 1};

  std::vector<ShardBlock> allocate(const Trainer& trainer) {
    std::vector<ShardBlock> blocks;
    for (const uint32_t shard : trainer.owned()) {
      const auto block = arena_->allocate(trainer.shard_bytes(shard), NodeId("node-0"), kEpoch);
      CHECK(block.has_value(), "{}", block.error().to_string());
      blocks.push_back({shard, block->index.value});
    }
    return blocks;
  }
  // Frees the blocks.
  Taken look_at(Version version, Result<StateVersion> outcome, const std::vector<ShardBlock>& blocks) {
    Taken taken{version, std::move(outcome), 0, {}};
    for (const ShardBlock& block : blocks) {
      const auto info = arena_->info(storage::BlockIndex(block.block));
      CHECK(info.has_value());
      if (info->header) ++taken.published;
      if (taken.outcome) {
        storage::BlockHeader expected;
        expected.job = kJob;
        expected.shard = ShardId::unflat(block.shard, job_.slices());
        expected.state = *taken.outcome;
        const auto payload = arena_->read_verified(info->index, expected);
        EXPECT_TRUE(payload) << payload.error().to_string();
        if (payload) taken.payloads.emplace_back(payload->begin(), payload->end());
      }
      EXPECT_TRUE(arena_->free(*info));
    }
    return taken;
  }

  conf::JobConfig job_;
  std::string arena_path_;
  std::unique_ptr<storage::Arena> arena_;
};

}  // namespace holdfast::train
