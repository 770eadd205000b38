// An exported model's logits, computed in bf16 on an accelerator, beside those of Mixtral in fp32.
#include <algorithm>
#include <cmath>

#include "ctl/export/model_folder.h"
#include "tests/ctl/program.h"
#include "tests/cuda_devices.h"
#include "tests/reference/hf_model.h"
#include "train/kernels/backends.h"
#include "train/optimizer/materialize.h"

namespace holdfast::ctl {
namespace {

using train::CudaBackend;

conf::ModelConfig model_of(uint32_t experts, uint32_t top_k) {
  conf::ModelConfig model;
  model.vocabulary = 256;
  model.layers = 4;
  model.width = 256;
  model.heads = 4;
  model.kv_heads = 2;
  model.experts = experts;
  model.top_k = top_k;
  model.expert_width = 384;
  model.context = 128;
  return model;
}

// As a trained model has them: what goes through a matrix keeps its size.
test::Groups even_weights(const conf::ModelConfig& model, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  test::Groups groups;
  const train::ParameterLayout layout(model, 1);
  for (const train::GroupSpec& group : layout.groups()) {
    groups.emplace_back(group.elements);
    for (const train::TensorSpec& tensor : group.tensors)
      for (size_t i = 0; i < tensor.elements(); ++i)
        groups.back()[tensor.offset + i] =
            tensor.decays ? normal(random) / std::sqrt(static_cast<float>(tensor.columns))
                          : 1 + 0.2F * normal(random);
  }
  return groups;
}

class HfOnCuda : public ::testing::TestWithParam<std::pair<uint32_t, uint32_t>> {};

TEST_P(HfOnCuda, Bfloat16LogitsAgree) {
  if (const std::string why = train::missing_devices(1); !why.empty()) GTEST_SKIP() << why;
  auto device = train::kernels::Cuda::open(0);
  train::kernels::Cuda& cuda = **device;
  const conf::ModelConfig config = model_of(GetParam().first, GetParam().second);
  const train::ParameterLayout layout(config, 1);
  const test::Groups groups = even_weights(config, 5);

  test::Folder scratch;
  const auto out = scratch.path() / "model";
  const auto folder = ModelFolder::create(
      {.folder = out, .type = storage::TensorType::kBfloat16}, layout);
  ASSERT_TRUE(folder) << folder.error().to_string();
  for (const auto& group : groups) ASSERT_TRUE((*folder)->append(group));
  ASSERT_TRUE((*folder)->finish());

  const train::StageMap map{&layout,
                            train::place_static(config.layers, config.experts, 1, config.experts),
                            std::vector<uint32_t>(layout.shard_count(), 0), 0, 1,
                            train::whole_model(config)};
  train::ComputeWeights<CudaBackend> weights;
  weights.open(map);
  for (const train::GroupSpec& group : layout.groups()) {
    const auto& from = groups[group.index.value];
    std::vector<train::Bf16> rounded(from.size());
    std::transform(from.begin(), from.end(), rounded.begin(), train::to_bf16);
    upload_now(cuda, rounded.data(), rounded.size() * sizeof(train::Bf16),
               weights.at(group.index, 0));
  }
  const train::MicroBatch batch = test::random_tokens(config, 4, 11);
  const auto ours = test::compute<CudaBackend>(cuda, config, weights, batch);
  if (!test::python_agrees(out, batch, ours, "bf16")) GTEST_SKIP() << "PyTorch is not installed";
}

INSTANTIATE_TEST_SUITE_P(Models, HfOnCuda,
                         ::testing::Values(std::pair{8U, 2U}, std::pair{16U, 4U}, std::pair{4U, 4U}));

}  // namespace
}  // namespace holdfast::ctl
