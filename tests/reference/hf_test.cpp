// Exported models against Mixtral: names, shapes, every element, and the logits that an independent
// implementation computes from the files.
#include <gmock/gmock.h>

#include <bit>
#include <limits>

#include "ctl/export/mixtral.h"
#include "ctl/export/model_folder.h"
#include "tests/ctl/program.h"
#include "tests/reference/hf_model.h"
#include "tests/train/model/model_harness.h"

namespace holdfast::ctl {
namespace {

using ::testing::HasSubstr;

conf::ModelConfig two_layers() {
  conf::ModelConfig model;
  model.vocabulary = 64;
  model.layers = 2;
  model.width = 32;
  model.experts = 4;
  model.expert_width = 48;
  model.context = 24;
  return model;
}

conf::ModelConfig odd_sizes() {
  conf::ModelConfig model = train::small_model();  // 11 tokens, 5 experts of 6, 4 heads on 2
  model.layers = 3;
  model.top_k = 3;
  model.rope_theta = 500;
  model.norm_epsilon = 1e-3;
  return model;
}

class HfTest : public ::testing::Test {
 protected:
  std::filesystem::path out() const { return folder_.path() / "model"; }

  // In uneven pieces.
  Status write(const conf::ModelConfig& config, const test::Groups& groups,
               const ModelFolderOptions& options) {
    const train::ParameterLayout layout(config, 3);
    ASSIGN_OR_RETURN(const auto folder, ModelFolder::create(options, layout));
    std::vector<float> all;
    for (const auto& group : groups) all.insert(all.end(), group.begin(), group.end());
    for (size_t begin = 0, count = 1; begin < all.size(); begin += count, count = count * 3 % 4'099) {
      const size_t now = std::min(count, all.size() - begin);
      RETURN_IF_ERROR(folder->append(std::span(all).subspan(begin, now)));
    }
    files_ = folder->files();
    return folder->finish();
  }
  void expect_agrees(const conf::ModelConfig& config, ModelFolderOptions options) {
    options.folder = out();
    const test::Groups groups = train::random_weights<float>(config, 5);
    const Status written = write(config, groups, options);
    ASSERT_TRUE(written) << written.error().to_string();
    test::Groups held = groups;  // as the files hold them
    if (options.type == storage::TensorType::kBfloat16)
      for (auto& group : held)
        for (float& value : group)
          value = train::to_float(train::to_bf16(value));
    if (!test::python_agrees(out(), config, held)) GTEST_SKIP() << "PyTorch is not installed";
  }

  test::Folder folder_;
  size_t files_ = 0;
};

TEST_F(HfTest, Float32LogitsAgree) { expect_agrees(two_layers(), {}); }
TEST_F(HfTest, Bfloat16LogitsAgree) {
  expect_agrees(two_layers(), {.folder = {}, .type = storage::TensorType::kBfloat16});
}
TEST_F(HfTest, OddSizesInSeveralFilesAgree) {
  expect_agrees(odd_sizes(), {.folder = {}, .max_file_bytes = 700});
  EXPECT_GT(files_, 5u);
  EXPECT_TRUE(std::filesystem::exists(out() / "model.safetensors.index.json"));
}

TEST_F(HfTest, EveryElementStandsUnderTheNameOfMixtral) {
  const conf::ModelConfig config = odd_sizes();
  const train::ParameterLayout layout(config, 1);
  const test::Groups groups = train::random_weights<float>(config, 5);
  ASSERT_TRUE(write(config, groups, {.folder = out()}));
  EXPECT_FALSE(std::filesystem::exists(out() / "model.safetensors.index.json"));
  const auto tensors = test::read_tensors(out() / "model.safetensors");
  EXPECT_EQ(tensors.size(), 1u + 3 * (5 + 2 + 5 * 3) + 2);
  const auto expect = [&](const std::string& name, GroupIndex group, size_t tensor) {
    const train::TensorSpec& spec = layout.group(group).tensors[tensor];
    ASSERT_TRUE(tensors.contains(name)) << name;
    const std::string& bytes = tensors.at(name);
    ASSERT_EQ(bytes.size(), spec.elements() * sizeof(float)) << name;
    EXPECT_EQ(std::memcmp(bytes.data(), groups[group.value].data() + spec.offset, bytes.size()), 0)
        << name;
  };
  const LayerIndex last(2);
  expect("model.embed_tokens.weight", layout.embedding(), 0);
  expect("model.layers.2.input_layernorm.weight", layout.attention(last), 0);
  expect("model.layers.2.self_attn.k_proj.weight", layout.attention(last), 2);
  expect("model.layers.2.self_attn.o_proj.weight", layout.attention(last), 4);
  expect("model.layers.2.post_attention_layernorm.weight", layout.router(last), 0);
  expect("model.layers.2.block_sparse_moe.gate.weight", layout.router(last), 1);
  const GroupIndex expert = layout.expert(last, ExpertIndex(4));
  expect("model.layers.2.block_sparse_moe.experts.4.w1.weight", expert, 0);
  expect("model.layers.2.block_sparse_moe.experts.4.w3.weight", expert, 1);
  expect("model.layers.2.block_sparse_moe.experts.4.w2.weight", expert, 2);
  expect("model.norm.weight", layout.head(), 0);
  expect("lm_head.weight", layout.head(), 1);
}

TEST_F(HfTest, WhatMixtralCannotExpressIsRefused) {
  conf::ModelConfig config = two_layers();
  config.top_k = 1;
  const Status written = write(config, train::random_weights<float>(config, 5), {.folder = out()});
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::kModelShape);
  EXPECT_THAT(written.error().message, HasSubstr("model.top_k = 1"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(HfTest, AFolderThatIsNotEmptyIsRefusedAndAnUnfinishedOneLeavesNothing) {
  const train::ParameterLayout layout(two_layers(), 1);
  {
    const auto folder = ModelFolder::create({.folder = out()}, layout);
    ASSERT_TRUE(folder) << folder.error().to_string();
    ASSERT_TRUE((*folder)->append(std::vector<float>(100)));
    EXPECT_FALSE(std::filesystem::exists(out()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  std::filesystem::create_directory(out());  // an empty one is taken
  const conf::ModelConfig config = odd_sizes();
  ASSERT_TRUE(write(config, train::random_weights<float>(config, 5), {.folder = out() / ""}));
  EXPECT_TRUE(std::filesystem::exists(out() / "config.json"));
  const auto again = ModelFolder::create({.folder = out()}, layout);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kUsage);
  EXPECT_THAT(again.error().message, HasSubstr("is not empty"));
  const auto file = ModelFolder::create({.folder = folder_.write("file", "x")}, layout);
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().message, HasSubstr("is not a folder"));
}

TEST_F(HfTest, Bfloat16RoundsToTheNearestEven) {
  for (const auto& [value, wanted] : std::vector<std::pair<float, uint16_t>>{
           {0.0F, 0x0000},
           {-0.0F, 0x8000},
           {1.0F, 0x3f80},
           {-2.5F, 0xc020},
           {1.0F + 0x1p-8F, 0x3f80},            // halfway, to even
           {1.0F + 3 * 0x1p-8F, 0x3f82},        // halfway, to even
           {1.0F + 0x1p-8F + 0x1p-20F, 0x3f81},
           {std::numeric_limits<float>::max(), 0x7f80},
           {std::numeric_limits<float>::infinity(), 0x7f80}})
    EXPECT_EQ(train::to_bf16(value).bits, wanted) << value;
  EXPECT_EQ(train::to_bf16(std::numeric_limits<float>::quiet_NaN()).bits & 0x7fff, 0x7fc0);
}

}  // namespace
}  // namespace holdfast::ctl
