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

// [N, V], for the tokens of the batch.
inline std::vector<float> our_logits(const conf::ModelConfig& config, const Groups& groups,
                                     const train::MicroBatch& batch) {
  using Cpu = train::CpuBackend<float>;
  const train::ParameterLayout layout(config, 1);
  const auto comms = train::make_in_process_group(1, 20'000);
  train::HostPayload payload(*comms[0]);
  const auto placement = train::place_static(config.layers, config.experts, 1, config.experts);
  train::kernels::Cpu cpu;
  train::MoeModel<Cpu> model(cpu, config);
  auto stash = model.forward(&batch, train::LaneWeights<float>(groups, layout, placement, 0),
                             {*comms[0], payload, placement, false, 1.0});
  EXPECT_TRUE(stash) << stash.error().to_string();
  const auto& head = static_cast<train::StashImpl<Cpu>&>(**stash).room->head;
  const auto weights = train::head_tensors<const float*>(layout.group(layout.head()),
                                                         groups[layout.head().value].data());
  std::vector<float> logits(batch.tokens.size() * config.vocabulary);
  train::kernels::linear<float>(cpu, {batch.tokens.size(), config.width, config.vocabulary},
                                head.normed_ND.data(), weights.output, logits.data());
  return logits;
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

// False: PyTorch is not installed, nothing was compared. Fails the test when the logits that the
// Python model computes from the folder are not ours.
inline bool python_agrees(const std::filesystem::path& folder, const conf::ModelConfig& config,
                          const Groups& groups) {
  const train::MicroBatch batch = random_tokens(config, 3, 11);
  boost::json::object ours;
  ours["sequences"] = batch.sequences;
  ours["tokens"] = boost::json::value_from(batch.tokens);
  ours["logits"] = boost::json::value_from(our_logits(config, groups, batch));
  std::filesystem::path file = folder;
  file += ".logits.json";
  std::ofstream(file) << boost::json::serialize(ours);
  const std::string command = fmt::format("{} {}/tests/reference/hf_check.py {} {}", HOLDFAST_PYTHON,
                                          HOLDFAST_SOURCE_DIR, folder.string(), file.string());
  const int status = std::system(command.c_str());
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  EXPECT_TRUE(code == 0 || code == 77) << command << " ended with " << code;
  return code != 77;
}

}  // namespace holdfast::test
