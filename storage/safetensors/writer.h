// Writes one file in the safetensors format (https://github.com/huggingface/safetensors, "Format").
// Little endian:
//
//   [0, 8)        N, bytes of the header, unsigned
//   [8, 8 + N)    JSON, "{" first, spaces last: {"__metadata__": {string: string}, "name": {"dtype":
//                 "F32" or "BF16", "shape": [..], "data_offsets": [begin, end]}, ..}; offsets are
//                 bytes from the end of the header
//   [8 + N, end)  the tensors, row-major, in the order of the header and without holes
//
// The header is padded so that the data begins at a multiple of 8. Readers refuse headers above 100
// MB, names that stand twice, and holes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace holdfast::storage {

enum class TensorType : uint8_t { kFloat32, kBfloat16 };
uint64_t element_bytes(TensorType type);

struct TensorEntry {
  std::string name;
  TensorType type = TensorType::kFloat32;
  std::vector<uint64_t> shape;

  uint64_t elements() const;
  uint64_t bytes() const { return elements() * element_bytes(type); }
};

// The first 8 + N bytes of a file of these tensors. kConfigValue for a name that is empty, stands
// twice, is "__metadata__" or has characters outside printable ASCII, and for a header that no reader
// would take.
Result<std::string> safetensors_header(std::span<const TensorEntry> tensors);

class SafetensorsWriter {
 public:
  // kFileIo when `path` exists, kDiskFull, the errors of safetensors_header.
  static Result<std::unique_ptr<SafetensorsWriter>> create(const std::filesystem::path& path,
                                                           std::span<const TensorEntry> tensors);
  // Closes the file. Without finish() it is not complete, and the caller's to remove.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes of the data, in any pieces; never more than there are left.
  Status append(std::span<const std::byte> bytes);
  uint64_t bytes_left() const { return left_; }
  // After the last byte: on disk when it returns.
  Status finish();

 private:
  SafetensorsWriter(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}

  const std::filesystem::path path_;
  const int fd_;
  uint64_t left_ = 0;
};

// A small file whole: kFileIo when it exists, on disk when it returns.
Status write_durable(const std::filesystem::path& path, std::string_view text);

}  // namespace holdfast::storage
