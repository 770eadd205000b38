// A Holdfast model in the words of Hugging Face's Mixtral (transformers, models/mixtral): names and
// shapes of the tensors, and config.json. Pure.
//
// The two models compute the same function when top_k > 1: RMSNorm, grouped-query attention with half
// rotations, softmax over all experts, the chosen gates divided by their sum, SwiGLU experts, untied
// head. With top_k = 1 Mixtral's only gate is 1, ours is the expert's probability: refused.
#pragma once

#include <boost/json/object.hpp>
#include <vector>

#include "base/result.h"
#include "storage/safetensors/writer.h"
#include "train/model/parameter_layout.h"

namespace holdfast::ctl {

// Every tensor in the order in which the groups' flat vectors follow each other. kModelShape for
// top_k = 1.
Result<std::vector<storage::TensorEntry>> mixtral_tensors(const train::ParameterLayout& layout,
                                                          storage::TensorType type);
boost::json::object mixtral_config(const conf::ModelConfig& model, storage::TensorType type);

}  // namespace holdfast::ctl
