#include "storage/safetensors/writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <set>

#include "base/check.h"

namespace holdfast::storage {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little endian");

constexpr size_t kAlignment = 8;
constexpr size_t kMaxHeaderBytes = 100'000'000;
constexpr mode_t kMode = 0644;

std::string_view type_name(TensorType type) {
  switch (type) {
    case TensorType::kFloat32:
      return "F32";
    case TensorType::kBfloat16:
      return "BF16";
  }
  CHECK(false, "tensor type {}", static_cast<int>(type));
}

tl::unexpected<Error> cannot(std::string_view what, const std::filesystem::path& path, int error) {
  return fail(error == ENOSPC || error == EDQUOT ? ErrorCode::kDiskFull : ErrorCode::kFileIo,
              fmt::format("cannot {} {}: {}", what, path.string(), std::strerror(error)));
}

Status check_name(const std::string& name, std::set<std::string>& seen) {
  const auto refuse = [&](std::string_view why) {
    return fail(ErrorCode::kConfigValue, fmt::format("tensor name \"{}\" {}", name, why));
  };
  if (name.empty()) return refuse("is empty");
  if (name == "__metadata__") return refuse("is the format's own");
  const bool printable = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c >= 0x20 && c < 0x7f;
  });
  if (!printable) return refuse("has characters outside printable ASCII");
  if (!seen.insert(name).second) return refuse("stands twice");
  return {};
}

Status write_fd(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return cannot("write", path, errno);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

Result<int> create_file(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
  if (fd < 0) return cannot("create", path, errno);
  return fd;
}

}  // namespace

uint64_t element_bytes(TensorType type) {
  switch (type) {
    case TensorType::kFloat32:
      return 4;
    case TensorType::kBfloat16:
      return 2;
  }
  CHECK(false, "tensor type {}", static_cast<int>(type));
}

uint64_t TensorEntry::elements() const {
  uint64_t count = 1;
  for (const uint64_t length : shape) count *= length;
  return count;
}

Result<std::string> safetensors_header(std::span<const TensorEntry> tensors) {
  boost::json::object json;
  // Loaders of transformers ask for it; the layout is the same for every framework.
  json["__metadata__"] = boost::json::object{{"format", "pt"}};
  std::set<std::string> seen;
  uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors) {
    RETURN_IF_ERROR(check_name(tensor.name, seen));
    boost::json::object entry;
    entry["dtype"] = std::string(type_name(tensor.type));
    entry["shape"] = boost::json::array(tensor.shape.begin(), tensor.shape.end());
    entry["data_offsets"] = boost::json::array{offset, offset + tensor.bytes()};
    json[tensor.name] = std::move(entry);
    offset += tensor.bytes();
  }
  std::string text = boost::json::serialize(json);
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  if (text.size() > kMaxHeaderBytes)
    return fail(ErrorCode::kConfigValue,
                fmt::format("{} tensors make a header of {} bytes, readers take {}", tensors.size(),
                            text.size(), kMaxHeaderBytes));
  const uint64_t length = text.size();
  std::string header(sizeof(length), '\0');
  std::memcpy(header.data(), &length, sizeof(length));
  return header + text;
}

Result<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::create(
    const std::filesystem::path& path, std::span<const TensorEntry> tensors) {
  ASSIGN_OR_RETURN(const std::string header, safetensors_header(tensors));
  ASSIGN_OR_RETURN(const int fd, create_file(path));
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, fd));
  RETURN_IF_ERROR(write_fd(fd, std::as_bytes(std::span(header)), path));
  for (const TensorEntry& tensor : tensors) writer->left_ += tensor.bytes();
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() { ::close(fd_); }

Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  CHECK(bytes.size() <= left_, "{} bytes for {} that are left", bytes.size(), left_);
  RETURN_IF_ERROR(write_fd(fd_, bytes, path_));
  left_ -= bytes.size();
  return {};
}

Status SafetensorsWriter::finish() {
  CHECK(left_ == 0, "{} bytes are missing", left_);
  if (::fsync(fd_) != 0) return cannot("sync", path_, errno);
  return {};
}

Status write_durable(const std::filesystem::path& path, std::string_view text) {
  ASSIGN_OR_RETURN(const int fd, create_file(path));
  Status status = write_fd(fd, std::as_bytes(std::span(text)), path);
  if (status && ::fsync(fd) != 0) status = cannot("sync", path, errno);
  ::close(fd);
  return status;
}

}  // namespace holdfast::storage
