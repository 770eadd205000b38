#include "base/checksum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>

#define XXH_INLINE_ALL
#define XXH_VECTOR 0  // XXH_SCALAR
#include <xxhash.h>

namespace holdfast {
namespace {

uint64_t portable_xxh3(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

TEST(Checksum, AnyFlippedBitChangesIt) {
  std::string text(1000, 'a');
  const uint64_t before = checksum64(text);
  for (size_t bit = 0; bit < text.size() * 8; bit += 61) {
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(checksum64(text), before) << "bit " << bit;
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
  }
  EXPECT_EQ(checksum64(text), before);
}

TEST(Checksum, PiecesGiveTheSameValueAsTheWhole) {
  const std::string text(777, 'q');
  const auto bytes = std::as_bytes(std::span(text));
  for (size_t cut : {size_t{0}, size_t{1}, size_t{256}, size_t{776}, size_t{777}}) {
    Checksum sum;
    sum.add(bytes.first(cut));
    sum.add(bytes.subspan(cut));
    EXPECT_EQ(sum.value(), checksum64(text));
  }
}

// Of XXH3 as it is specified: what one machine or release has summed, every other finds right.
TEST(Checksum, IsXxh3WhateverTheProcessorHas) {
  std::string text;
  for (size_t i = 0; i < 300'001; ++i) text.push_back(static_cast<char>(i * 131 >> 3));
  const auto bytes = std::as_bytes(std::span(text));
  for (const size_t size : {size_t{0}, size_t{3}, size_t{16}, size_t{200}, size_t{241}, size_t{1024},
                            size_t{4097}, text.size()}) {
    // The portable code of the library's header, which knows nothing of vector units.
    EXPECT_EQ(checksum64(bytes.first(size)), portable_xxh3(bytes.first(size))) << size << " bytes";
    Checksum sum;
    for (size_t at = 0; at < size; at += 1000)
      sum.add(bytes.subspan(at, std::min<size_t>(1000, size - at)));
    EXPECT_EQ(sum.value(), checksum64(bytes.first(size))) << size << " bytes in pieces";
  }
}

}  // namespace
}  // namespace holdfast
