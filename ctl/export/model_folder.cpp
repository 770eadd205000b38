#include "ctl/export/model_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "base/folders.h"
#include "ctl/export/mixtral.h"
#include "train/tensor/bf16.h"

namespace holdfast::ctl {
namespace {

namespace fs = std::filesystem;

// "a/b/" and "a/b" are one folder.
fs::path tidy(const fs::path& folder) {
  const fs::path whole = fs::absolute(folder).lexically_normal();
  return whole.has_filename() ? whole : whole.parent_path();
}

tl::unexpected<Error> cannot(const char* what, const fs::path& path, const std::string& why) {
  return fail(ErrorCode::kFileIo, fmt::format("cannot {} {}: {}", what, path.string(), why));
}

}  // namespace

Status check_is_free(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(folder, error);
  if (status.type() == fs::file_type::not_found) return {};
  if (status.type() != fs::file_type::directory)
    return fail(ErrorCode::kUsage, fmt::format("--out {} exists and is not a folder", folder.string()));
  const bool empty = fs::is_empty(folder, error);
  if (error) return cannot("look into", folder, error.message());
  if (!empty)
    return fail(ErrorCode::kUsage, fmt::format("--out {} exists and is not empty", folder.string()));
  return {};
}

Result<std::unique_ptr<ModelFolder>> ModelFolder::create(const ModelFolderOptions& options,
                                                         const train::ParameterLayout& layout) {
  ModelFolderOptions own = options;
  own.folder = tidy(options.folder);
  RETURN_IF_ERROR(check_is_free(own.folder));
  ASSIGN_OR_RETURN(auto tensors, mixtral_tensors(layout, own.type));
  std::unique_ptr<ModelFolder> model(new ModelFolder(std::move(own), layout, std::move(tensors)));
  std::error_code error;
  fs::remove_all(model->staging_, error);  // of a process that had our number
  fs::create_directories(model->staging_, error);
  if (error) return cannot("make", model->staging_, error.message());
  RETURN_IF_ERROR(model->open_next());
  return model;
}

ModelFolder::ModelFolder(ModelFolderOptions options, const train::ParameterLayout& layout,
                         std::vector<storage::TensorEntry> tensors)
    : options_(std::move(options)), model_(layout.model()), staging_(options_.folder) {
  staging_ += fmt::format(".{}.new", getpid());
  uint64_t in_file = 0;
  for (storage::TensorEntry& tensor : tensors) {
    const uint64_t bytes = tensor.bytes();
    if (files_.empty() || (in_file > 0 && in_file + bytes > options_.max_file_bytes)) {
      files_.emplace_back();
      in_file = 0;
    }
    in_file += bytes;
    bytes_ += bytes;
    files_.back().tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < files_.size(); ++i)
    files_[i].name = files_.size() == 1 ? "model.safetensors"
                                        : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1,
                                                      files_.size());
}

ModelFolder::~ModelFolder() {
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
}

Status ModelFolder::open_next() {
  const File& file = files_[next_];
  ASSIGN_OR_RETURN(open_, storage::SafetensorsWriter::create(staging_ / file.name, file.tensors));
  ++next_;
  return {};
}

Status ModelFolder::append(std::span<const float> values) {
  const uint64_t element = storage::element_bytes(options_.type);
  std::vector<train::Bf16> rounded;
  while (!values.empty()) {
    while (open_->bytes_left() == 0) {
      CHECK(next_ < files_.size(), "{} elements too many", values.size());
      RETURN_IF_ERROR(open_->finish());
      RETURN_IF_ERROR(open_next());
    }
    const auto now = values.first(std::min<uint64_t>(values.size(), open_->bytes_left() / element));
    values = values.subspan(now.size());
    switch (options_.type) {
      case storage::TensorType::kFloat32:
        RETURN_IF_ERROR(open_->append(std::as_bytes(now)));
        break;
      case storage::TensorType::kBfloat16:
        rounded.resize(now.size());
        std::transform(now.begin(), now.end(), rounded.begin(), train::to_bf16);
        RETURN_IF_ERROR(open_->append(std::as_bytes(std::span(rounded))));
        break;
    }
  }
  return {};
}

Status ModelFolder::write_index() const {
  if (files_.size() == 1) return {};
  boost::json::object where;
  for (const File& file : files_)
    for (const storage::TensorEntry& tensor : file.tensors) where[tensor.name] = file.name;
  boost::json::object index;
  index["metadata"] = boost::json::object{{"total_size", bytes_}};
  index["weight_map"] = std::move(where);
  return storage::write_durable(staging_ / "model.safetensors.index.json",
                                boost::json::serialize(index) + "\n");
}

Status ModelFolder::finish() {
  CHECK(next_ == files_.size(), "{} of {} files begun", next_, files_.size());
  RETURN_IF_ERROR(open_->finish());
  RETURN_IF_ERROR(write_index());
  RETURN_IF_ERROR(storage::write_durable(
      staging_ / "config.json", boost::json::serialize(mixtral_config(model_, options_.type)) + "\n"));
  RETURN_IF_ERROR(sync_folder(staging_));
  // In place of an empty folder, or of none.
  if (std::rename(staging_.c_str(), options_.folder.c_str()) != 0) {
    const int reason = errno;
    RETURN_IF_ERROR(check_is_free(options_.folder));  // says it better, where it is that
    return cannot("name", options_.folder, std::strerror(reason));
  }
  return sync_folder(options_.folder.parent_path());
}

}  // namespace holdfast::ctl
