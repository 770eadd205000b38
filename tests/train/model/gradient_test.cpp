// The backward of the whole model, in double precision: the gradients that reach the sink against
// finite differences of the loss, on one lane and on several, with routing and dropped choices frozen.
#include <gtest/gtest.h>

#include <set>

#include "tests/train/kernels/gradient_check.h"
#include "tests/train/model/model_harness.h"

namespace holdfast::train {
namespace {

struct Case {
  const char* name;
  uint32_t lanes;
  uint32_t slots;
  uint32_t top_k;
  bool reproducible;
  std::optional<double> capacity_factor = {};
  bool rooms = false;
};
class ModelGradient : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Groups, ModelGradient,
                         testing::Values(Case{"OneLane", 1, 5, 2, false},
                                         Case{"OneLaneTopOne", 1, 5, 1, false},
                                         Case{"ThreeLanesReplicated", 3, 3, 2, false},
                                         Case{"ThreeLanesReproducible", 3, 3, 2, true},
                                         Case{"FourLanesAllChosen", 4, 2, 5, false},
                                         Case{"OneLaneDrops", 1, 5, 2, false, 0.7},
                                         Case{"OneLaneTopOneDrops", 1, 5, 1, false, 0.7},
                                         Case{"ThreeLanesDropReproducible", 3, 3, 2, true, 0.7},
                                         Case{"ThreeLanesDropInRooms", 3, 3, 2, false, 0.7, true}),
                         [](const auto& info) { return info.param.name; });

TEST_P(ModelGradient, MatchesFiniteDifferences) {
  const Case param = GetParam();
  conf::ModelConfig config = small_model();
  config.top_k = param.top_k;
  Groups<double> weights = random_weights<double>(config, 7);
  const std::vector<MicroBatch> batches = random_batches(config, 8, 4, 2);
  const GroupMode mode{param.reproducible, 1.0 / 4, param.capacity_factor, param.rooms};
  const auto run = run_group<PlainSink<double>>(config, weights, batches,
                                                spread(config, param.lanes, param.slots), mode);

  const ParameterLayout layout(config, 1);
  const Placement alone = spread(config, 1, config.experts);
  LaneWeights<double> all(weights, layout, alone, 0);
  ThreadGroup group(1);
  ThreadGroup::Rank comm(group, 0);
  kernels::Cpu cpu;
  MoeModel<Backend<double>> model(cpu, config);
  HostPayload payload(comm);
  const Capacity capacity = capacity_of(config, batches, param.capacity_factor.value_or(1));
  const ModelContext context{comm,  payload, alone,
                             false, 1.0,     param.capacity_factor ? &capacity : nullptr};
  if (param.capacity_factor) {
    uint64_t dropped = 0;
    for (const MicroBatchLoss& one : run.losses)
      for (const uint64_t count : dropped_choices(capacity, one.popularity)) dropped += count;
    EXPECT_GT(dropped, 10U);
  }
  const auto loss = [&] {
    all.refresh();
    double sum = 0;
    for (size_t j = 0; j < batches.size(); ++j) {
      const auto evaluated = model.evaluate(&batches[j], all, context);
      EXPECT_TRUE(evaluated.has_value());
      const MicroBatchLoss one = (*evaluated)->loss();
      EXPECT_EQ(one.popularity, run.losses[j].popularity) << "a choice was flipped";
      sum += one.total() * mode.loss_scale;
    }
    return sum;
  };
  std::set<GroupIndex> idle;  // experts that nobody chose
  for (uint32_t cell = 0; cell < config.layers * config.experts; ++cell) {
    uint64_t choices = 0;
    for (const MicroBatchLoss& one : run.losses) choices += one.popularity[cell];
    if (choices == 0)
      idle.insert(layout.expert(LayerIndex(cell / config.experts),
                                ExpertIndex(cell % config.experts)));
  }
  EXPECT_LE(idle.size(), 1U);
  for (const GroupSpec& spec : layout.groups()) {
    double largest = 0;
    for (const double g : run.gradients[spec.index.value]) largest = std::max(largest, std::abs(g));
    EXPECT_TRUE(largest > 1e-4 || idle.contains(spec.index)) << spec.name << " has no gradient";
    expect_gradient(spec.name.c_str(), weights[spec.index.value], run.gradients[spec.index.value],
                    loss, 60);
  }
}

}  // namespace
}  // namespace holdfast::train
