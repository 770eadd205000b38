// A job trained by lanes as threads of this process, as workers would between processes: views open,
// steps run, lanes are lost and others adopt their shards.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "train/comm/in_process.h"
#include "train/step/lane_trainer.h"

namespace holdfast::train {

inline conf::JobConfig small_job(bool reproducible) {
  conf::JobConfig job;
  job.name = JobId("small");
  job.steps = 40;
  job.pipelines = 4;
  job.micro_batches = 2;
  job.micro_batch_sequences = 2;
  job.reproducible = reproducible;
  job.evaluate_every = 5;
  job.evaluate_micro_batches = 3;
  job.optimizer.learning_rate = 5e-3;
  job.optimizer.warmup_steps = 4;
  job.model.vocabulary = 16;
  job.model.layers = 2;
  job.model.width = 16;
  job.model.heads = 2;
  job.model.kv_heads = 1;
  job.model.experts = 4;
  job.model.expert_width = 24;
  job.model.context = 12;
  job.data.path = "none";
  return job;
}

// Text with something to learn: the next token follows from the two before.
inline MicroBatch made_up_batch(const conf::JobConfig& job, uint64_t key) {
  MicroBatch batch{job.micro_batch_sequences, job.model.context, {}, {}};
  for (uint32_t s = 0; s < batch.sequences; ++s) {
    uint64_t a = (key * 7 + s * 3 + 1) % 16, b = (key * 5 + s + 2) % 16;
    for (uint32_t t = 0; t < batch.context; ++t) {
      const uint64_t next = (3 * a + b + 1) % 16;
      batch.tokens.push_back(static_cast<int32_t>(b));
      batch.targets.push_back(static_cast<int32_t>(next));
      a = b;
      b = next;
    }
  }
  return batch;
}

inline BatchSource made_up_text(const conf::JobConfig& job, DataFingerprint data = {}) {
  return {[job](Step step, MicroBatchIndex j) -> Result<MicroBatch> {
            return made_up_batch(job, step.value * 100 + j.value);
          },
          [job](uint32_t index) -> Result<MicroBatch> {
            return made_up_batch(job, 1'000'000 + index);
          },
          data};
}

// One lane: a trainer that outlives views, as a worker's does.
struct LaneProcess {
  explicit LaneProcess(const conf::JobConfig& job, DataFingerprint data = {},
                       ProgressFn progress = [](Step, uint32_t, bool) {})
      : trainer(std::make_unique<kernels::Cpu>(), job, made_up_text(job, data), abort,
                std::move(progress)) {}
  AbortWord abort;
  LaneTrainer<CpuBackend<float>> trainer;
};

using Payload = std::vector<std::byte>;
inline void ignore_pieces(std::span<const std::byte>) {}

inline Payload read_state(Trainer& trainer, uint32_t shard, Version version) {
  const auto guard = trainer.protect_version(version, 0);
  CHECK(guard != nullptr);
  Payload payload(trainer.shard_bytes(shard));
  CHECK(guard->read_shard(shard, payload, ignore_pieces));
  return payload;
}

struct ViewPlan {
  Epoch epoch{1, 1};
  StateVersion base;
  std::vector<uint32_t> coordinates;  // by member, as `stages`
  std::vector<uint32_t> owner_lane;
  std::vector<uint32_t> stages = {};
  TrainerView view_of(uint32_t member) const {
    return {epoch, base, member, coordinates, stages, owner_lane};
  }
};

// Shard s belongs to the lane at coordinate s mod P where that lives, else to lane s mod c.
inline ViewPlan plan_view(const conf::JobConfig& job, std::vector<uint32_t> coordinates,
                          StateVersion base = {}, Epoch epoch = {1, 1}) {
  const ParameterLayout layout(job.model, job.slices());
  ViewPlan plan{epoch, base, std::move(coordinates), {}};
  for (uint32_t shard = 0; shard < layout.shard_count(); ++shard) {
    uint32_t owner = shard % static_cast<uint32_t>(plan.coordinates.size());
    for (uint32_t lane = 0; lane < plan.coordinates.size(); ++lane)
      if (plan.coordinates[lane] == shard % job.slices()) owner = lane;
    plan.owner_lane.push_back(owner);
  }
  return plan;
}

// Opens the view on one lane; what the trainer does not hold comes from `state` (empty: initial).
inline void open_trainer(Trainer& trainer, const ViewPlan& plan, uint32_t number,
                         const std::vector<Payload>& state = {}) {
  CHECK(trainer.open_view(plan.view_of(number)).has_value());
  std::vector<uint32_t> have;
  for (const HeldShards& held : trainer.held())
    if (held.state == plan.base) have = held.shards;
  for (const uint32_t shard : trainer.owned()) {
    if (std::find(have.begin(), have.end(), shard) != have.end()) continue;
    const Status done =
        state.empty() ? trainer.init_shard(shard) : trainer.load_shard(shard, state[shard]);
    CHECK(done.has_value());
  }
  CHECK(trainer.finish_loading().has_value());
}
inline void open_lane(LaneProcess& lane, const ViewPlan& plan, uint32_t number,
                      const std::vector<Payload>& state = {}) {
  lane.abort.clear();
  open_trainer(lane.trainer, plan, number, state);
}

// Ends this lane's part where it is told to; else as the communicator below.
class LosingComm final : public ViewCommunicator {
 public:
  explicit LosingComm(ViewCommunicator& comm) : comm_(comm) {}
  // At the n-th thing it does with others from now on, counted from 1; 0: only counts.
  void lose_at(uint32_t n) {
    calls_ = 0;
    n_ = n;
  }
  uint32_t calls() const { return calls_; }

  uint32_t rank() const override { return comm_.rank(); }
  uint32_t size() const override { return comm_.size(); }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                    std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    count();
    return comm_.all_to_all(send, send_bytes, recv, recv_bytes);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t> recv_bytes) override {
    count();
    return comm_.all_gather(send, recv, recv_bytes);
  }
  void abort() override { comm_.abort(); }
  std::unique_ptr<Communicator> group(std::vector<uint32_t> ranks) override {
    return std::make_unique<Group>(*this, comm_.group(std::move(ranks)));
  }
  std::unique_ptr<HandOverLine> line(uint32_t number, int64_t timeout_ms) override {
    return comm_.line(number, timeout_ms);
  }
  Status send(uint32_t to, std::vector<std::byte> bytes) override {
    count();
    return comm_.send(to, std::move(bytes));
  }
  Status receive(uint32_t from, std::span<std::byte> into) override {
    count();
    return comm_.receive(from, into);
  }
  Status flush() override {
    count();
    return comm_.flush();
  }
  Status flush_older() override {
    count();
    return comm_.flush_older();
  }

 private:
  class Group final : public Communicator {
   public:
    Group(LosingComm& view, std::unique_ptr<Communicator> group)
        : view_(view), group_(std::move(group)) {}
    uint32_t rank() const override { return group_->rank(); }
    uint32_t size() const override { return group_->size(); }
    Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                      std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
      view_.count();
      return group_->all_to_all(send, send_bytes, recv, recv_bytes);
    }
    Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                      std::span<const size_t> recv_bytes) override {
      view_.count();
      return group_->all_gather(send, recv, recv_bytes);
    }
    void abort() override { group_->abort(); }

   private:
    LosingComm& view_;
    const std::unique_ptr<Communicator> group_;
  };
  void count() {
    if (++calls_ == n_) comm_.abort();
  }
  ViewCommunicator& comm_;
  uint32_t n_ = 0, calls_ = 0;
};

// Every lane materializes, then runs `body`, on a thread of its own.
inline void run_lanes_over(const std::vector<LaneProcess*>& lanes,
                           std::vector<std::unique_ptr<ViewCommunicator>> comms,
                           const std::function<void(LaneProcess&, LosingComm&, uint32_t)>& body) {
  std::vector<std::thread> threads;
  for (uint32_t l = 0; l < lanes.size(); ++l)
    threads.emplace_back([&, l] {
      LosingComm comm(*comms[l]);
      const Status made = lanes[l]->trainer.materialize(comm);
      CHECK(made.has_value(), "{}", made.error().to_string());
      body(*lanes[l], comm, l);
    });
  for (std::thread& thread : threads) thread.join();
}

inline void run_lanes(const std::vector<LaneProcess*>& lanes,
                      const std::function<void(LaneProcess&, ViewCommunicator&, uint32_t)>& body) {
  run_lanes_over(lanes, make_in_process_group(static_cast<uint32_t>(lanes.size()), 20'000), body);
}
inline void run_losing(const std::vector<LaneProcess*>& lanes,
                       const std::function<void(LaneProcess&, LosingComm&, uint32_t)>& body) {
  run_lanes_over(lanes, make_in_process_group(static_cast<uint32_t>(lanes.size()), 20'000),
                 [&](LaneProcess& lane, LosingComm& comm, uint32_t l) { body(lane, comm, l); });
}

struct Losses {
  std::vector<double> training, held_out, norms;
  bool operator==(const Losses&) const = default;
};

// `steps` steps from the view's base; what lane 0 reports (the same on every lane, which is checked).
inline Losses train(std::vector<LaneProcess*> lanes, uint64_t first, uint64_t steps) {
  std::vector<Losses> all(lanes.size());
  run_lanes(lanes, [&](LaneProcess& lane, ViewCommunicator& comm, uint32_t l) {
    for (uint64_t step = first; step < first + steps; ++step) {
      const auto done = lane.trainer.run_step(comm, Step(step));
      CHECK(done.has_value(), "{}", done.error().to_string());
      all[l].training.push_back(done->loss);
      all[l].norms.push_back(done->gradient_norm);
      if (done->held_out_loss) all[l].held_out.push_back(*done->held_out_loss);
    }
  });
  for (const Losses& one : all) CHECK(one == all[0]);
  return all[0];
}

struct Group {
  Group(const conf::JobConfig& job, uint32_t lanes) {
    for (uint32_t l = 0; l < lanes; ++l) processes.push_back(std::make_unique<LaneProcess>(job));
  }
  std::vector<LaneProcess*> all() {
    std::vector<LaneProcess*> lanes;
    for (auto& one : processes) lanes.push_back(one.get());
    return lanes;
  }
  std::vector<std::unique_ptr<LaneProcess>> processes;
};

}  // namespace holdfast::train
