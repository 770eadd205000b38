// Token files of other systems: llm.c's .bin (header of 256 int32, then uint16), nanoGPT's .bin (uint16
// and nothing else), Megatron's .bin described by the .idx beside it.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "train/data/mapped_tokens.h"

namespace holdfast::train {
namespace {

constexpr int32_t kLlmcMagic = 20240520;
constexpr int32_t kLlmcVersion = 1;
constexpr size_t kLlmcHeaderBytes = 256 * 4;
constexpr char kMegatronMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};

tl::unexpected<Error> bad(const std::filesystem::path& path, const std::string& what) {
  return fail(ErrorCode::kDataFormat, fmt::format("{}: {}", path.string(), what));
}

template <class T>
T take(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

Result<std::unique_ptr<TokenFile>> open_llmc(const std::filesystem::path& path,
                                             std::shared_ptr<MappedBytes> file) {
  const auto bytes = file->bytes();
  const auto version = take<int32_t>(bytes, 4);
  if (version != kLlmcVersion)
    return bad(path, fmt::format("llm.c token file of version {}, only {} is read", version,
                                 kLlmcVersion));
  const auto tokens = take<int32_t>(bytes, 8);
  if (tokens < 0 || bytes.size() != kLlmcHeaderBytes + size_t{2} * static_cast<size_t>(tokens))
    return bad(path, fmt::format("the header promises {} tokens, the file has {} bytes", tokens,
                                 bytes.size()));
  return make_mapped_tokens(std::move(file), kLlmcHeaderBytes, static_cast<uint64_t>(tokens), 2, 0);
}

// Header: magic, version u64 = 1, dtype u8, sequences u64, documents u64; then sequence lengths
// (int32 each), pointers (int64 each) and document indices.
Result<std::unique_ptr<TokenFile>> open_megatron(const std::filesystem::path& path,
                                                 std::shared_ptr<MappedBytes> file,
                                                 const std::filesystem::path& index_path) {
  ASSIGN_OR_RETURN(const auto index, MappedBytes::map(index_path));
  const auto bytes = index->bytes();
  constexpr size_t kHeader = 9 + 8 + 1 + 8 + 8;
  if (bytes.size() < kHeader || std::memcmp(bytes.data(), kMegatronMagic, 9) != 0)
    return bad(index_path, "not a Megatron index (its magic is MMIDIDX)");
  if (const auto version = take<uint64_t>(bytes, 9); version != 1)
    return bad(index_path, fmt::format("Megatron index of version {}, only 1 is read", version));
  const auto dtype = take<uint8_t>(bytes, 17);
  // 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16
  constexpr std::array<uint32_t, 9> kWidths = {0, 1, 0, 0, 4, 0, 0, 0, 2};
  if (dtype >= kWidths.size() || kWidths[dtype] == 0)
    return bad(index_path, fmt::format("token type {} is not read: uint8 (1), int32 (4) and uint16 "
                                       "(8) are", dtype));
  const auto sequences = take<uint64_t>(bytes, 18);
  if (sequences > (bytes.size() - kHeader) / 4)
    return bad(index_path, fmt::format("{} sequences do not fit into {} bytes", sequences,
                                       bytes.size()));
  uint64_t tokens = 0;
  for (uint64_t s = 0; s < sequences; ++s) {
    const auto length = take<int32_t>(bytes, kHeader + 4 * s);
    if (length < 0) return bad(index_path, fmt::format("sequence {} has length {}", s, length));
    tokens += static_cast<uint64_t>(length);
  }
  const uint64_t held = file->bytes().size() / kWidths[dtype];
  if (held != tokens || file->bytes().size() % kWidths[dtype] != 0)
    return bad(path, fmt::format("{} bytes, but {} promises {} tokens of {} bytes",
                                 file->bytes().size(), index_path.string(), tokens,
                                 kWidths[dtype]));
  return make_mapped_tokens(std::move(file), 0, tokens, kWidths[dtype], 0);
}

}  // namespace

Result<std::unique_ptr<TokenFile>> open_foreign_tokens(const std::filesystem::path& path,
                                                       std::shared_ptr<MappedBytes> file) {
  std::filesystem::path index = path;
  index.replace_extension(".idx");
  if (std::filesystem::exists(index)) return open_megatron(path, std::move(file), index);
  const auto bytes = file->bytes();
  if (bytes.size() >= kLlmcHeaderBytes && take<int32_t>(bytes, 0) == kLlmcMagic)
    return open_llmc(path, std::move(file));
  if (bytes.size() % 2 != 0)
    return bad(path, fmt::format("{} bytes are not a whole number of 16-bit tokens", bytes.size()));
  const uint64_t tokens = bytes.size() / 2;
  return make_mapped_tokens(std::move(file), 0, tokens, 2, 0);
}

}  // namespace holdfast::train
