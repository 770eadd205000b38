// The .tokens file: 64 bytes of header, then tokens. Little endian. docs/formats.md is the spec.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace holdfast::train {

struct TokenFileHeader {
  char magic[8];              // kTokenMagic
  uint32_t format = 0;        // kTokenFormat
  uint32_t token_bytes = 0;   // 1, 2 or 4
  uint64_t tokens = 0;
  uint32_t vocabulary = 0;    // largest token + 1
  uint32_t reserved = 0;      // 0
  uint64_t payload_checksum = 0;  // checksum64 of the tokens
  uint64_t reserved2[2] = {0, 0};
  uint64_t header_checksum = 0;   // checksum64 of the 56 bytes before it
};
static_assert(sizeof(TokenFileHeader) == 64);
static_assert(offsetof(TokenFileHeader, tokens) == 16);
static_assert(offsetof(TokenFileHeader, payload_checksum) == 32);
static_assert(offsetof(TokenFileHeader, header_checksum) == 56);
static_assert(std::endian::native == std::endian::little);

inline constexpr char kTokenMagic[8] = {'H', 'F', 'T', 'O', 'K', 'E', 'N', 'S'};
inline constexpr uint32_t kTokenFormat = 1;

}  // namespace holdfast::train
