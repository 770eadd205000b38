// Writes a model as the folder that `from_pretrained` of transformers reads: config.json and
// model.safetensors, or above 4 GiB model-00001-of-0000n.safetensors and so on with
// model.safetensors.index.json. The folder is written under `<folder>.<pid>.new` and gets its name
// when everything in it is on disk: it is there whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "storage/safetensors/writer.h"
#include "train/model/parameter_layout.h"

namespace holdfast::ctl {

struct ModelFolderOptions {
  std::filesystem::path folder;
  storage::TensorType type = storage::TensorType::kFloat32;
  uint64_t max_file_bytes = uint64_t{4} << 30;  // of tensors; a larger tensor has a file of its own
};

// kUsage when something is there that is not an empty folder.
Status check_is_free(const std::filesystem::path& folder);

class ModelFolder {
 public:
  // kModelShape (see mixtral_tensors), kUsage, kFileIo, kDiskFull.
  static Result<std::unique_ptr<ModelFolder>> create(const ModelFolderOptions& options,
                                                     const train::ParameterLayout& layout);
  ~ModelFolder();  // what did not get its name is removed
  ModelFolder(const ModelFolder&) = delete;
  ModelFolder& operator=(const ModelFolder&) = delete;

  // The next elements of the groups' flat vectors, in any pieces.
  Status append(std::span<const float> values);
  Status finish();

  uint64_t bytes() const { return bytes_; }  // of all tensors
  size_t files() const { return files_.size(); }

 private:
  struct File {
    std::string name;
    std::vector<storage::TensorEntry> tensors;
  };
  ModelFolder(ModelFolderOptions options, const train::ParameterLayout& layout,
              std::vector<storage::TensorEntry> tensors);
  Status open_next();
  Status write_index() const;

  const ModelFolderOptions options_;
  const conf::ModelConfig model_;
  std::filesystem::path staging_;
  std::vector<File> files_;
  uint64_t bytes_ = 0;
  size_t next_ = 0;  // file to open
  std::unique_ptr<storage::SafetensorsWriter> open_;
};

}  // namespace holdfast::ctl
