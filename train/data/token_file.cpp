#include <fmt/format.h>

#include <cstring>

#include "base/checksum.h"
#include "train/data/mapped_tokens.h"
#include "train/data/token_format.h"

namespace holdfast::train {
namespace {

Result<std::unique_ptr<TokenFile>> open_own(const std::filesystem::path& path,
                                            std::shared_ptr<MappedBytes> file) {
  const auto bytes = file->bytes();
  const auto bad = [&](const std::string& what) {
    return fail(ErrorCode::kDataFormat, fmt::format("{}: {}", path.string(), what));
  };
  if (bytes.size() < sizeof(TokenFileHeader)) return bad("shorter than its header");
  TokenFileHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.header_checksum != checksum64(bytes.first(offsetof(TokenFileHeader, header_checksum))))
    return bad("the header's checksum does not match");
  if (header.format != kTokenFormat)
    return bad(fmt::format("format {}, this release reads {}", header.format, kTokenFormat));
  if (header.token_bytes != 1 && header.token_bytes != 2 && header.token_bytes != 4)
    return bad(fmt::format("tokens of {} bytes", header.token_bytes));
  const auto payload = bytes.subspan(sizeof header);
  if (payload.size() / header.token_bytes != header.tokens ||
      payload.size() % header.token_bytes != 0)
    return bad(fmt::format("{} tokens of {} bytes were promised, {} bytes are there", header.tokens,
                           header.token_bytes, payload.size()));
  if (checksum64(payload) != header.payload_checksum)
    return bad("the checksum of the tokens does not match");
  return make_mapped_tokens(std::move(file), sizeof header, header.tokens, header.token_bytes,
                            header.vocabulary, header.payload_checksum);
}

}  // namespace

Result<std::unique_ptr<TokenFile>> TokenFile::open(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(auto file, MappedBytes::map(path));
  const auto bytes = file->bytes();
  if (bytes.empty())
    return fail(ErrorCode::kDataEmpty, fmt::format("{}: the file is empty", path.string()));
  const bool own = bytes.size() >= sizeof kTokenMagic &&
                   std::memcmp(bytes.data(), kTokenMagic, sizeof kTokenMagic) == 0;
  if (own) return open_own(path, std::move(file));
  if (path.extension() == ".bin") return open_foreign_tokens(path, std::move(file));
  return fail(ErrorCode::kDataFormat,
              fmt::format("{}: neither a .tokens file (its magic is missing) nor a .bin; "
                          "holdfastctl data prepare makes a token file from text",
                          path.string()));
}

}  // namespace holdfast::train
