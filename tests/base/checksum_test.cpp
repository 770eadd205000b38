#include "base/checksum.h"

#include <gtest/gtest.h>

#include <string>

namespace holdfast {
namespace {

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

}  // namespace
}  // namespace holdfast
