// What must not depend on the number of lanes, on the placement, or on the run.
#include <gtest/gtest.h>

#include "tests/train/model/model_harness.h"

namespace holdfast::train {
namespace {

using FixedRun = GroupRun<float, int64_t>;

void expect_same_losses(const std::vector<MicroBatchLoss>& a,
                        const std::vector<MicroBatchLoss>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t j = 0; j < a.size(); ++j) {
    EXPECT_EQ(a[j].cross_entropy, b[j].cross_entropy) << "micro-batch " << j;
    EXPECT_EQ(a[j].load_balance, b[j].load_balance) << "micro-batch " << j;
    EXPECT_EQ(a[j].z_loss, b[j].z_loss) << "micro-batch " << j;
    EXPECT_EQ(a[j].popularity, b[j].popularity) << "micro-batch " << j;
  }
}

struct Sizes {
  const char* name;
  conf::ModelConfig config;
  uint32_t sequences;
};

conf::ModelConfig wider_model() {
  conf::ModelConfig config = small_model();
  config.vocabulary = 64;
  config.width = 48;
  config.expert_width = 40;
  config.context = 32;
  return config;
}
// Three tokens and eight experts of which one is chosen: most experts get nothing.
conf::ModelConfig sparse_model() {
  conf::ModelConfig config = small_model();
  config.experts = 8;
  config.top_k = 1;
  config.context = 3;
  return config;
}

class Lanes : public testing::TestWithParam<Sizes> {};
INSTANTIATE_TEST_SUITE_P(Models, Lanes,
                         testing::Values(Sizes{"Wider", wider_model(), 3},
                                         Sizes{"MostExpertsEmpty", sparse_model(), 1}),
                         [](const auto& info) { return info.param.name; });

// Five micro-batches: with 2, 3 and 4 lanes some lane is idle in the last round.
TEST_P(Lanes, ReproducibleModeGivesTheSameBitsOnAnyNumberOfLanes) {
  const auto& [name, config, sequences] = GetParam();
  const Groups<float> weights = random_weights<float>(config, 3);
  const std::vector<MicroBatch> batches = random_batches(config, 4, 5, sequences);
  const GroupMode mode{true, 1.0 / 5};
  const FixedRun alone = run_group<FixedPointSink<float>>(config, weights, batches,
                                                          spread(config, 1, config.experts), mode);
  for (const uint32_t lanes : {2U, 3U, 4U}) {
    for (const uint32_t spare : {0U, 2U}) {
      SCOPED_TRACE(testing::Message() << lanes << " lanes, " << spare << " spare slots a lane");
      const uint32_t slots = (config.experts + lanes - 1) / lanes + spare;
      const FixedRun run = run_group<FixedPointSink<float>>(config, weights, batches,
                                                            spread(config, lanes, slots), mode);
      expect_same_losses(run.losses, alone.losses);
      EXPECT_EQ(run.gradients, alone.gradients);
    }
  }
}

TEST_P(Lanes, CapacityModeGivesTheSameBitsOnAnyNumberOfLanesInReproducibleMode) {
  const auto& [name, config, sequences] = GetParam();
  const Groups<float> weights = random_weights<float>(config, 3);
  const std::vector<MicroBatch> batches = random_batches(config, 4, 5, sequences);
  const GroupMode mode{true, 1.0 / 5, 0.6};
  const FixedRun alone = run_group<FixedPointSink<float>>(config, weights, batches,
                                                          spread(config, 1, config.experts), mode);
  const FixedRun dropless = run_group<FixedPointSink<float>>(
      config, weights, batches, spread(config, 1, config.experts), {true, 1.0 / 5});
  EXPECT_NE(alone.losses[0].cross_entropy, dropless.losses[0].cross_entropy) << "nothing was dropped";
  for (const uint32_t lanes : {2U, 3U, 4U}) {
    SCOPED_TRACE(testing::Message() << lanes << " lanes");
    const uint32_t slots = (config.experts + lanes - 1) / lanes + 1;
    const FixedRun run = run_group<FixedPointSink<float>>(config, weights, batches,
                                                          spread(config, lanes, slots), mode);
    expect_same_losses(run.losses, alone.losses);
    EXPECT_EQ(run.gradients, alone.gradients);
  }
}

TEST_P(Lanes, CapacityThatDropsNothingGivesTheBitsOfDropless) {
  const auto& [name, config, sequences] = GetParam();
  const Groups<float> weights = random_weights<float>(config, 3);
  const std::vector<MicroBatch> batches = random_batches(config, 4, 5, sequences);
  const Placement placement = spread(config, 3, 4);
  const auto dropless = run_group<PlainSink<float>>(config, weights, batches, placement, {});
  for (const bool rooms : {false, true}) {
    const auto run =
        run_group<PlainSink<float>>(config, weights, batches, placement, {false, 1.0, 1e3, rooms});
    expect_same_losses(run.losses, dropless.losses);
    EXPECT_EQ(run.gradients, dropless.gradients);
  }
}

// What accelerators do between lanes, here on the CPU.
TEST_P(Lanes, RoomsOfFixedSizeGiveTheBitsOfAPlanOfTheHosts) {
  const auto& [name, config, sequences] = GetParam();
  const Groups<float> weights = random_weights<float>(config, 3);
  const std::vector<MicroBatch> batches = random_batches(config, 4, 5, sequences);
  for (const double factor : {0.3, 0.8, 1.25}) {
    for (const uint32_t lanes : {1U, 2U, 3U, 4U}) {
      SCOPED_TRACE(testing::Message() << lanes << " lanes, factor " << factor);
      const Placement placement = spread(config, lanes, (config.experts + lanes - 1) / lanes + 2);
      const auto planned =
          run_group<PlainSink<float>>(config, weights, batches, placement, {false, 1.0, factor});
      const auto run = run_group<PlainSink<float>>(config, weights, batches, placement,
                                                   {false, 1.0, factor, true});
      expect_same_losses(run.losses, planned.losses);
      EXPECT_EQ(run.gradients, planned.gradients);
    }
  }
}

TEST_P(Lanes, DefaultModeGivesTheSameBitsInEveryRun) {
  const auto& [name, config, sequences] = GetParam();
  const Groups<float> weights = random_weights<float>(config, 3);
  const std::vector<MicroBatch> batches = random_batches(config, 4, 5, sequences);
  const Placement placement = spread(config, 3, 4);
  const auto first = run_group<PlainSink<float>>(config, weights, batches, placement, {});
  const auto again = run_group<PlainSink<float>>(config, weights, batches, placement, {});
  expect_same_losses(first.losses, again.losses);
  EXPECT_EQ(first.gradients, again.gradients);
}

TEST_P(Lanes, DefaultModeAgreesWithOneLaneUpToRounding) {
  const auto& [name, config, sequences] = GetParam();
  const Groups<double> weights = random_weights<double>(config, 3);
  const std::vector<MicroBatch> batches = random_batches(config, 4, 5, sequences);
  const auto alone =
      run_group<PlainSink<double>>(config, weights, batches, spread(config, 1, config.experts), {});
  const auto run = run_group<PlainSink<double>>(config, weights, batches, spread(config, 4, 3), {});
  for (size_t j = 0; j < batches.size(); ++j)
    EXPECT_NEAR(run.losses[j].total(), alone.losses[j].total(), 1e-12);
  for (size_t g = 0; g < run.gradients.size(); ++g)
    for (size_t i = 0; i < run.gradients[g].size(); ++i)
      ASSERT_NEAR(run.gradients[g][i], alone.gradients[g][i], 1e-12);
}

TEST(Model, AGroupWithoutAnyMicroBatchHasNoLossAndNoGradient) {
  const conf::ModelConfig config = small_model();
  const Groups<float> weights = random_weights<float>(config, 3);
  const ParameterLayout layout(config, 1);
  const Placement placement = spread(config, 1, config.experts);
  const LaneWeights<float> here(weights, layout, placement, 0);
  PlainSink<float> sink(layout, here);
  ThreadGroup group(1);
  ThreadGroup::Rank comm(group, 0);
  kernels::Cpu cpu;
  MoeModel<Backend<float>> model(cpu, config);
  HostPayload payload(comm);
  const ModelContext context{comm, payload, placement};
  auto round = model.forward(nullptr, here, context);
  ASSERT_TRUE(round.has_value());
  EXPECT_EQ(round->stash->loss().total(), 0);
  EXPECT_EQ(round->stash->loss().popularity, std::vector<uint64_t>(2 * 5));
  ASSERT_TRUE(model.input_gradient(nullptr, *round->hosted, here, context).has_value());
  ASSERT_TRUE(model.expert_weight_gradient(*round->hosted, sink).has_value());
  for (const auto& group_sum : sink.sums)
    EXPECT_EQ(group_sum, std::vector<float>(group_sum.size()));
}

// A collective that fails must come out as the error it is, and leave a model that can go on.
class FailingComm final : public Communicator {
 public:
  explicit FailingComm(int allowed) : allowed_(allowed) {}
  uint32_t rank() const override { return 0; }
  uint32_t size() const override { return 1; }
  Status all_to_all(std::span<const std::byte> send, std::span<const size_t>,
                    std::span<std::byte> recv, std::span<const size_t>) override {
    return copy(send, recv);
  }
  Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                    std::span<const size_t>) override {
    return copy(send, recv);
  }
  void abort() override {}

 private:
  Status copy(std::span<const std::byte> send, std::span<std::byte> recv) {
    if (allowed_-- == 0) return fail(ErrorCode::kCommPeerLost, "rank 1 is gone");
    std::copy(send.begin(), send.end(), recv.begin());
    return {};
  }
  int allowed_;
};

TEST(Model, ReturnsTheErrorOfWhicheverCollectiveFails) {
  const conf::ModelConfig config = small_model();
  const Groups<float> weights = random_weights<float>(config, 3);
  const ParameterLayout layout(config, 1);
  const std::vector<MicroBatch> batches = random_batches(config, 4, 1, 2);
  const Placement placement = spread(config, 1, config.experts);
  const LaneWeights<float> here(weights, layout, placement, 0);
  kernels::Cpu cpu;
  MoeModel<Backend<float>> model(cpu, config);
  const int collectives = static_cast<int>(config.layers) * 5;  // 3 in F, 2 in I
  for (int allowed = 0; allowed <= collectives; ++allowed) {
    FailingComm comm(allowed);
    HostPayload payload(comm);
    const ModelContext context{comm, payload, placement};
    auto round = model.forward(&batches[0], here, context);
    const Status done =
        round ? model.input_gradient(round->stash.get(), *round->hosted, here, context)
              : Status(tl::unexpected<Error>(round.error()));
    EXPECT_EQ(done.has_value(), allowed == collectives) << allowed;
    if (!done) {
      EXPECT_EQ(done.error().code, ErrorCode::kCommPeerLost);
    }
  }
}

}  // namespace
}  // namespace holdfast::train
