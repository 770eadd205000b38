// The model in stages: what they hand each other gives the same bits as the whole, also when I rounds
// bring other micro-batches together than F rounds did.
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "tests/train/model/model_harness.h"

namespace holdfast::train {
namespace {

using Rounds = std::vector<std::vector<std::optional<size_t>>>;  // [round][lane]

// One lane of every stage group, which takes the stages' parts one after the other.
template <class Sink, class T>
class StagedLane {
 public:
  StagedLane(Communicator& comm, const conf::ModelConfig& config, const Groups<T>& weights,
             const std::vector<MicroBatch>& batches, const Placement& placement, GroupMode mode,
             const std::vector<StageLayers>& stages)
      : layout_(config, 1),
        batches_(batches),
        here_(weights, layout_, placement, comm.rank()),
        sink_(layout_, here_),
        payload_(comm),
        capacity_(capacity_of(config, batches, mode.capacity_factor.value_or(1))),
        context_{comm,
                 payload_,
                 placement,
                 mode.reproducible,
                 mode.loss_scale,
                 mode.capacity_factor ? &capacity_ : nullptr} {
    for (const StageLayers& stage : stages)
      models_.push_back(std::make_unique<MoeModel<Backend<T>>>(cpu_, config, stage));
  }

  void forward(size_t number, const std::vector<std::optional<size_t>>& round) {
    for (size_t lane = 0; lane < round.size(); ++lane)
      if (round[lane]) forward_round_[*round[lane]] = number;
    const auto mine = round[context_.comm.rank()];
    std::vector<T> x;
    hosted_.emplace_back();
    for (auto& model : models_) {
      MicroBatch sizes;  // what a stage does not read is not there
      if (mine) {
        sizes = batches_[*mine];
        if (!model->stage().embeds) sizes.tokens.clear();
        if (!model->stage().has_head) sizes.targets.clear();
      }
      auto done = model->forward(mine ? &sizes : nullptr, here_, context_, x);
      CHECK(done.has_value());
      x.assign(done->stash->output().begin(), done->stash->output().end());
      EXPECT_EQ(x.empty(), !mine || model->stage().has_head);
      if (mine) stashes_[*mine].push_back(std::move(done->stash));
      hosted_.back().push_back(std::move(done->hosted));
    }
  }

  void backward(const std::vector<std::optional<size_t>>& round, bool as_forward) {
    const auto mine = round[context_.comm.rank()];
    std::vector<T> dy;
    for (size_t s = models_.size(); s-- > 0;) {
      std::vector<const Hosted<Backend<T>>*> from;
      std::unique_ptr<Hosted<Backend<T>>> assembled;
      Hosted<Backend<T>>* hosted = nullptr;
      for (const auto& one : round) {
        hosted = one ? hosted_[forward_round_.at(*one)][s].get() : hosted;
        from.push_back(one ? hosted_[forward_round_.at(*one)][s].get() : nullptr);
      }
      if (!as_forward) {
        auto made = models_[s]->assemble(from, context_);
        CHECK(made.has_value());
        assembled = std::move(*made);
        hosted = assembled.get();
      }
      Stash<Backend<T>>* stash = mine ? stashes_.at(*mine)[s].get() : nullptr;
      CHECK(models_[s]->input_gradient(stash, *hosted, here_, context_, dy).has_value());
      dy.clear();
      if (stash != nullptr) {
        dy.assign(stash->handed_back().begin(), stash->handed_back().end());
        EXPECT_EQ(dy.empty(), models_[s]->stage().embeds);
        CHECK(models_[s]->weight_gradient(*stash, sink_).has_value());
      }
      CHECK(models_[s]->expert_weight_gradient(*hosted, sink_).has_value());
    }
  }

  MicroBatchLoss loss(size_t j) const {
    MicroBatchLoss sum;
    for (const auto& stash : stashes_.at(j)) {
      const MicroBatchLoss one = stash->loss();
      sum.cross_entropy += one.cross_entropy;
      for (const kernels::RouterLosses& layer : one.layers) {
        sum.load_balance += layer.load_balance;
        sum.z_loss += layer.z;
      }
      sum.popularity.insert(sum.popularity.end(), one.popularity.begin(), one.popularity.end());
    }
    return sum;
  }
  Groups<typename Sink::Sum>& sums() { return sink_.sums; }

 private:
  const ParameterLayout layout_;
  const std::vector<MicroBatch>& batches_;
  const LaneWeights<T> here_;
  Sink sink_;
  kernels::Cpu cpu_;
  HostPayload payload_;
  const Capacity capacity_;
  const ModelContext context_;
  std::vector<std::unique_ptr<MoeModel<Backend<T>>>> models_;
  std::map<size_t, size_t> forward_round_;
  std::map<size_t, std::vector<std::unique_ptr<Stash<Backend<T>>>>> stashes_;
  std::vector<std::vector<std::unique_ptr<Hosted<Backend<T>>>>> hosted_;  // [F round][stage]
};

template <class Sink, class T>
GroupRun<T, typename Sink::Sum> run_staged(const conf::ModelConfig& config, const Groups<T>& weights,
                                           const std::vector<MicroBatch>& batches,
                                           const Placement& placement, GroupMode mode,
                                           const std::vector<StageLayers>& stages,
                                           const Rounds& forward, const Rounds& backward) {
  const uint32_t lanes = placement.layers.front().lanes();
  GroupRun<T, typename Sink::Sum> run;
  run.losses.resize(batches.size());
  std::vector<Groups<typename Sink::Sum>> sums(lanes);
  ThreadGroup group(lanes);
  std::vector<std::thread> threads;
  for (uint32_t lane = 0; lane < lanes; ++lane)
    threads.emplace_back([&, lane] {
      ThreadGroup::Rank comm(group, lane);
      StagedLane<Sink, T> one(comm, config, weights, batches, placement, mode, stages);
      for (size_t r = 0; r < forward.size(); ++r) one.forward(r, forward[r]);
      for (size_t r = 0; r < backward.size(); ++r)
        one.backward(backward[r], r < forward.size() && backward[r] == forward[r]);
      for (const auto& round : forward)
        if (round[lane]) run.losses[*round[lane]] = one.loss(*round[lane]);
      sums[lane] = std::move(one.sums());
    });
  for (std::thread& thread : threads) thread.join();
  run.gradients = std::move(sums[0]);
  for (uint32_t lane = 1; lane < lanes; ++lane)
    for (size_t g = 0; g < run.gradients.size(); ++g)
      for (size_t i = 0; i < run.gradients[g].size(); ++i)
        run.gradients[g][i] += sums[lane][g][i];
  return run;
}

conf::ModelConfig four_layers() {
  conf::ModelConfig config = small_model();
  config.layers = 4;
  return config;
}

constexpr auto kNone = std::nullopt;
const Rounds kForward = {{0, 1, 2}, {3, 4, 5}, {6, kNone, kNone}};
const Rounds kOther = {{kNone, 1, kNone}, {0, 4, 2}, {6, kNone, 5}, {3, kNone, kNone}};

const std::vector<std::vector<StageLayers>> kSplits = {
    {{0, 4, true, true}},
    {{0, 2, true, false}, {2, 2, false, true}},
    {{0, 1, true, false}, {1, 2, false, false}, {3, 1, false, true}}};

struct Case {
  const char* name;
  std::optional<double> capacity_factor;
};
class Stages : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Routing, Stages, testing::Values(Case{"Dropless", {}}, Case{"Drops", 0.7}),
                         [](const auto& info) { return info.param.name; });

TEST_P(Stages, GiveTheBitsOfTheWholeModelInReproducibleMode) {
  const conf::ModelConfig config = four_layers();
  const Groups<float> weights = random_weights<float>(config, 3);
  const std::vector<MicroBatch> batches = random_batches(config, 4, 7, 2);
  const GroupMode mode{true, 1.0 / 7, GetParam().capacity_factor};
  const auto whole = run_group<FixedPointSink<float>>(config, weights, batches,
                                                      spread(config, 3, 3), mode);
  for (const auto& split : kSplits)
    for (const Rounds& backward : {kForward, kOther}) {
      const auto run = run_staged<FixedPointSink<float>>(
          config, weights, batches, spread(config, 3, 3), mode, split, kForward, backward);
      for (size_t j = 0; j < batches.size(); ++j) {
        EXPECT_EQ(run.losses[j].cross_entropy, whole.losses[j].cross_entropy);
        EXPECT_EQ(run.losses[j].load_balance, whole.losses[j].load_balance);
        EXPECT_EQ(run.losses[j].z_loss, whole.losses[j].z_loss);
        EXPECT_EQ(run.losses[j].popularity, whole.losses[j].popularity);
      }
      EXPECT_EQ(run.gradients, whole.gradients)
          << split.size() << " stages, " << backward.size() << " I rounds";
    }
}

// In double precision, where the whole model's gradients are those of finite differences
// (gradient_test.cpp).
TEST_P(Stages, GiveTheWholeModelsGradientsInDefaultMode) {
  const conf::ModelConfig config = four_layers();
  const Groups<double> weights = random_weights<double>(config, 5);
  const std::vector<MicroBatch> batches = random_batches(config, 6, 7, 2);
  const GroupMode mode{false, 1.0 / 7, GetParam().capacity_factor};
  const auto whole =
      run_group<PlainSink<double>>(config, weights, batches, spread(config, 3, 3), mode);
  for (const auto& split : kSplits)
    for (const Rounds& backward : {kForward, kOther}) {
      const auto run = run_staged<PlainSink<double>>(
          config, weights, batches, spread(config, 3, 3), mode, split, kForward, backward);
      for (size_t g = 0; g < run.gradients.size(); ++g)
        for (size_t i = 0; i < run.gradients[g].size(); ++i)
          ASSERT_NEAR(run.gradients[g][i], whole.gradients[g][i], 1e-12);
    }
}

// What the first half hands on and is handed back, against the loss of the second half.
TEST(Stage, HandsBackTheGradientOfWhatItWasGiven) {
  const conf::ModelConfig config = four_layers();
  const ParameterLayout layout(config, 1);
  const Groups<double> weights = random_weights<double>(config, 7);
  const std::vector<MicroBatch> batches = random_batches(config, 8, 1, 2);
  const Placement placement = spread(config, 1, config.experts);
  const LaneWeights<double> here(weights, layout, placement, 0);
  ThreadGroup group(1);
  ThreadGroup::Rank comm(group, 0);
  HostPayload payload(comm);
  const ModelContext context{comm, payload, placement};
  kernels::Cpu cpu;
  MoeModel<Backend<double>> half(cpu, config, {2, 2, false, true});
  std::vector<double> x(batches[0].tokens.size() * config.width);
  std::iota(x.begin(), x.end(), 0.0);
  for (double& value : x) value = std::sin(value);
  auto round = half.forward(&batches[0], here, context, x);
  ASSERT_TRUE(round);
  const auto choices = round->stash->loss().popularity;
  ASSERT_TRUE(half.input_gradient(round->stash.get(), *round->hosted, here, context));
  const std::vector<double> dx(round->stash->handed_back().begin(),
                               round->stash->handed_back().end());
  ASSERT_EQ(dx.size(), x.size());
  const auto loss = [&](size_t i, double by) {
    std::vector<double> moved = x;
    moved[i] += by;
    const auto evaluated = half.evaluate(&batches[0], here, context, moved);
    EXPECT_EQ((*evaluated)->loss().popularity, choices) << "a choice was flipped";
    return (*evaluated)->loss().total();
  };
  for (size_t i = 0; i < x.size(); i += 5) {
    const double step = 1e-6;
    EXPECT_NEAR(dx[i], (loss(i, step) - loss(i, -step)) / (2 * step), 1e-7) << i;
  }
}

}  // namespace
}  // namespace holdfast::train
