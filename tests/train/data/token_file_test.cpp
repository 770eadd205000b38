// Token files of every kind that we read: right ones, and every way in which one is wrong.
#include "tests/train/data/data_test_help.h"
#include "train/data/batches.h"
#include "train/data/token_format.h"

namespace holdfast::train {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> all_of(const TokenFile& file) {
  std::vector<int32_t> tokens(file.size());
  file.read(0, file.size(), tokens.data());
  return tokens;
}

class TokenFileTest : public DataTest {
 protected:
  void expect_refused(const std::filesystem::path& path, const char* says) {
    const auto file = TokenFile::open(path);
    ASSERT_FALSE(file) << says;
    EXPECT_EQ(file.error().code, ErrorCode::kDataFormat) << file.error().to_string();
    EXPECT_THAT(file.error().message, HasSubstr(says));
    EXPECT_THAT(file.error().message, HasSubstr(folder_.string()));
  }
};

TEST_F(TokenFileTest, OursIsReadBack) {
  write("a", "ab\xff");
  ASSERT_TRUE(prepare({folder_ / "a"}));
  const auto file = TokenFile::open(output());
  ASSERT_TRUE(file) << file.error().to_string();
  EXPECT_EQ(all_of(**file), (std::vector<int32_t>{'a', 'b', 255, '\n'}));
  EXPECT_EQ((*file)->vocabulary(), 256u);
}

TEST_F(TokenFileTest, AnyFlippedByteOfOursIsFound) {
  write("a", "some text to be read");
  ASSERT_TRUE(prepare({folder_ / "a"}));
  const std::string whole = read(output());
  for (size_t i = sizeof kTokenMagic; i < whole.size(); ++i) {
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ 4);
    const auto file = TokenFile::open(write("flipped.tokens", bytes));
    ASSERT_FALSE(file) << "byte " << i;
    EXPECT_EQ(file.error().code, ErrorCode::kDataFormat);
  }
  for (const size_t bytes : {size_t{9}, size_t{64}, whole.size() - 1})
    EXPECT_FALSE(TokenFile::open(write("cut.tokens", whole.substr(0, bytes)))) << bytes;
  expect_refused(write("long.tokens", whole + "x"), "were promised");
}

TEST_F(TokenFileTest, NothingAndNoSuchThing) {
  EXPECT_EQ(TokenFile::open(write("empty.tokens", "")).error().code, ErrorCode::kDataEmpty);
  const auto missing = TokenFile::open(folder_ / "nowhere.tokens");
  EXPECT_EQ(missing.error().code, ErrorCode::kDataMissing);
  EXPECT_THAT(missing.error().message, HasSubstr("nowhere.tokens"));
  expect_refused(write("notes.txt", "just text"), "holdfastctl data prepare");
}

TEST_F(TokenFileTest, NanoGptsBinIsSixteenBitTokens) {
  const auto file = TokenFile::open(write("n.bin", as_bytes<uint16_t>({1, 50256, 65535})));
  ASSERT_TRUE(file) << file.error().to_string();
  EXPECT_EQ(all_of(**file), (std::vector<int32_t>{1, 50256, 65535}));
  expect_refused(write("odd.bin", "abc"), "not a whole number of 16-bit tokens");
}

std::string llmc(int32_t version, int32_t tokens) {
  std::vector<int32_t> header(256);
  header[0] = 20240520;
  header[1] = version;
  header[2] = tokens;
  return as_bytes(header) + as_bytes<uint16_t>({7, 8, 9});
}

TEST_F(TokenFileTest, LlmcsBinHasAHeader) {
  const auto file = TokenFile::open(write("l.bin", llmc(1, 3)));
  ASSERT_TRUE(file) << file.error().to_string();
  EXPECT_EQ(all_of(**file), (std::vector<int32_t>{7, 8, 9}));
  expect_refused(write("l.bin", llmc(2, 3)), "version 2");
  expect_refused(write("l.bin", llmc(1, 4)), "promises 4 tokens");
  expect_refused(write("l.bin", llmc(1, -3)), "promises -3 tokens");
}

struct MegatronIndex {
  uint64_t version = 1;
  uint8_t dtype = 8;
  uint64_t sequences = 2;
  std::vector<int32_t> lengths = {2, 1};

  std::string bytes() const {
    return std::string("MMIDIDX\0\0", 9) + as_bytes<uint64_t>({version}) +
           as_bytes<uint8_t>({dtype}) + as_bytes<uint64_t>({sequences, 1}) + as_bytes(lengths) +
           as_bytes<int64_t>({0, 4}) + as_bytes<int64_t>({0, 2});
  }
};

TEST_F(TokenFileTest, MegatronsBinIsDescribedByItsIndex) {
  const auto bin = write("m.bin", as_bytes<uint16_t>({40000, 5, 6}));
  const auto with = [&](const MegatronIndex& index) { write("m.idx", index.bytes()); };
  with({});
  const auto file = TokenFile::open(bin);
  ASSERT_TRUE(file) << file.error().to_string();
  EXPECT_EQ(all_of(**file), (std::vector<int32_t>{40000, 5, 6}));
  with({.version = 2});
  expect_refused(bin, "version 2");
  with({.dtype = 7});
  expect_refused(bin, "token type 7");
  with({.lengths = {2, 2}});
  expect_refused(bin, "promises 4 tokens");
  with({.lengths = {4, -1}});
  expect_refused(bin, "sequence 1 has length -1");
  with({.sequences = uint64_t{1} << 62});
  expect_refused(bin, "do not fit");
  write("m.idx", "MMIDIDX");
  expect_refused(bin, "not a Megatron index");
  with({.dtype = 4});
  write("m.bin", as_bytes<int32_t>({-1, 70000, 3}));
  const auto wide = TokenFile::open(bin);
  ASSERT_TRUE(wide) << wide.error().to_string();
  EXPECT_EQ(all_of(**wide), (std::vector<int32_t>{-1, 70000, 3}));
}

}  // namespace
}  // namespace holdfast::train
