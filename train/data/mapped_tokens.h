// A read-only mapped file, and tokens of a fixed width in it. Only train/data includes this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "train/data/batches.h"

namespace holdfast::train {

class MappedBytes {
 public:
  // kDataMissing naming the file and the system's reason; an empty file maps to no bytes.
  static Result<std::shared_ptr<MappedBytes>> map(const std::filesystem::path& path);
  ~MappedBytes();
  MappedBytes(const MappedBytes&) = delete;
  MappedBytes& operator=(const MappedBytes&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedBytes(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* const data_;
  const size_t size_;
};

// Unsigned little-endian tokens of 1, 2 or 4 bytes, or signed ones of the same widths (Megatron's),
// from `offset` of the file on. checksum: of these tokens, nullopt where it is to be taken now.
std::unique_ptr<TokenFile> make_mapped_tokens(std::shared_ptr<MappedBytes> file, size_t offset,
                                              uint64_t tokens, uint32_t token_bytes,
                                              uint32_t vocabulary,
                                              std::optional<uint64_t> checksum = std::nullopt);

// llm.c's and nanoGPT's .bin, Megatron's .bin with `path`.idx; kDataFormat.
Result<std::unique_ptr<TokenFile>> open_foreign_tokens(const std::filesystem::path& path,
                                                       std::shared_ptr<MappedBytes> file);

}  // namespace holdfast::train
