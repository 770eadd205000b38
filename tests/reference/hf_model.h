// An exported model looked at by tests: its files read back, our own logits of the same weights, and
// tests/reference/hf_check.py, which computes them from the files.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/train/model/model_harness.h"
#include "train/comm/in_process.h"
#include "train/kernels/gemm.h"
#include "train/model/stash_impl.h"
#include "train/tensor/bf16.h"

namespace holdfast::test {

using Groups = std::vector<std::vector<float>>;  // the flat vector of every group

inline std::string read_whole(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The data of every tensor of a safetensors file, by name.
inline std::map<std::string, std::string> read_tensors(const std::filesystem::path& path) {
  const std::string file = read_whole(path);
  std::map<std::string, std::string> tensors;
  uint64_t length = 0;
  EXPECT_GT(file.size(), sizeof(length)) << path;
  if (file.size() <= sizeof(length)) return tensors;
  std::memcpy(&length, file.data(), sizeof(length));
  const auto header = boost::json::parse(file.substr(8, length)).as_object();
  for (const auto& [name, entry] : header) {
    if (name == "__metadata__") continue;
    const auto& offsets = entry.at("data_offsets").as_array();
    const auto begin = offsets[0].to_number<uint64_t>(), end = offsets[1].to_number<uint64_t>();
    tensors[std::string(name)] = file.substr(8 + length + begin, end - begin);
  }
  return tensors;
}

inline float as_float(float value) { return value; }
inline float as_float(train::Bf16 value) { return train::to_float(value); }

struct Computed {
  std::vector<float> logits;                    // [N, V]
  std::vector<std::vector<uint32_t>> choices;  // by layer, [N, K]
};

// What the model makes of the batch, where the backend computes.
template <class B>
Computed compute(typename B::Device& device, const conf::ModelConfig& config,
                             const train::Weights<B>& weights, const train::MicroBatch& batch) {
  using V = typename B::Value;
  const train::ParameterLayout layout(config, 1);
  const auto comms = train::make_in_process_group(1, 20'000);
  train::HostPayload payload(*comms[0]);
  const auto placement = train::place_static(config.layers, config.experts, 1, config.experts);
  train::MoeModel<B> model(device, config);
  auto round = model.forward(&batch, weights, {*comms[0], payload, placement, false, 1.0});
  EXPECT_TRUE(round) << round.error().to_string();
  auto& room = *static_cast<train::StashImpl<B>&>(*round->stash).room;
  const auto& head = room.head;
  const auto tensors = train::head_tensors<const V*>(layout.group(layout.head()),
                                                     weights.group(layout.head()));
  const size_t elements = batch.tokens.size() * config.vocabulary;
  typename B::template Room<V> logits;
  typename B::template HostRoom<V> told;
  logits.resize(elements);
  told.resize(elements);
  linear(device, train::kernels::LinearShape{batch.tokens.size(), config.width, config.vocabulary},
         head.normed_ND.data(), tensors.output, logits.data());
  download(device, logits.data(), elements, told.data());
  const size_t per_layer = batch.tokens.size() * config.top_k;
  typename B::template HostRoom<uint32_t> choices;
  choices.resize(config.layers * per_layer);
  for (uint32_t layer = 0; layer < config.layers; ++layer)
    download(device, room.blocks[layer].moe.choices_NK.data(), per_layer,
             choices.data() + layer * per_layer);
  const Status finished = device.finish();
  EXPECT_TRUE(finished) << finished.error().to_string();
  Computed computed;
  for (size_t i = 0; i < elements; ++i) computed.logits.push_back(as_float(told.data()[i]));
  for (uint32_t layer = 0; layer < config.layers; ++layer)
    computed.choices.emplace_back(choices.data() + layer * per_layer,
                                  choices.data() + (layer + 1) * per_layer);
  return computed;
}

inline Computed compute_on_host(const conf::ModelConfig& config, const Groups& groups,
                                     const train::MicroBatch& batch) {
  const train::ParameterLayout layout(config, 1);
  const auto placement = train::place_static(config.layers, config.experts, 1, config.experts);
  train::kernels::Cpu cpu;
  return compute<train::CpuBackend<float>>(
      cpu, config, train::LaneWeights<float>(groups, layout, placement, 0), batch);
}

inline train::MicroBatch random_tokens(const conf::ModelConfig& model, uint32_t sequences,
                                       uint64_t seed) {
  std::mt19937_64 random(seed);
  train::MicroBatch batch{sequences, model.context, {}, {}};
  for (uint32_t i = 0; i < sequences * model.context; ++i)
    batch.tokens.push_back(static_cast<int32_t>(random() % model.vocabulary));
  batch.targets = batch.tokens;
  return batch;
}

inline std::string setting(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

// False: PyTorch is not installed, nothing was compared. Fails the test when what the Python model
// computes from the folder is not `ours`. type: what that was computed in, "fp32" or "bf16", which says
// how far it may be off. HOLDFAST_PYTHON and HOLDFAST_SOURCE_DIR in the
// environment stand for what the build knew, on another machine.
inline bool python_agrees(const std::filesystem::path& folder, const train::MicroBatch& batch,
                          const Computed& ours, const std::string& type) {
  boost::json::object told;
  told["type"] = type;
  told["sequences"] = batch.sequences;
  told["tokens"] = boost::json::value_from(batch.tokens);
  told["logits"] = boost::json::value_from(ours.logits);
  told["choices"] = boost::json::value_from(ours.choices);
  std::filesystem::path file = folder;
  file += ".logits.json";
  std::ofstream(file) << boost::json::serialize(told);
  const std::string command = fmt::format(
      "{} {}/tests/reference/hf_check.py {} {}", setting("HOLDFAST_PYTHON", HOLDFAST_PYTHON),
      setting("HOLDFAST_SOURCE_DIR", HOLDFAST_SOURCE_DIR), folder.string(), file.string());
  const int status = std::system(command.c_str());
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  EXPECT_TRUE(code == 0 || code == 77) << command << " ended with " << code;
  return code != 77;
}

inline bool python_agrees(const std::filesystem::path& folder, const conf::ModelConfig& config,
                          const Groups& groups) {
  const train::MicroBatch batch = random_tokens(config, 3, 11);
  return python_agrees(folder, batch, compute_on_host(config, groups, batch), "fp32");
}

}  // namespace holdfast::test
