// What stands in a safetensors file, byte for byte.
#include "storage/safetensors/writer.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstring>
#include <fstream>

#include "tests/ctl/program.h"

namespace holdfast::storage {
namespace {

class SafetensorsTest : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return folder_.path() / "a.safetensors"; }
  std::string contents() const {
    std::ifstream in(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
  }
  static uint64_t header_bytes(const std::string& file) {
    uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof(length));
    return length;
  }

  test::Folder folder_;
};

TEST_F(SafetensorsTest, TheHeaderNamesEveryTensorAndTheDataFollowsWithoutHoles) {
  const std::vector<TensorEntry> tensors = {{"odd", TensorType::kBfloat16, {3}},
                                            {"matrix", TensorType::kFloat32, {2, 5}},
                                            {"empty", TensorType::kFloat32, {0, 7}},
                                            {"scalar", TensorType::kFloat32, {}}};
  auto writer = SafetensorsWriter::create(path(), tensors);
  ASSERT_TRUE(writer) << writer.error().to_string();
  EXPECT_EQ((*writer)->bytes_left(), 6u + 40u + 4u);
  std::string data;
  for (int i = 0; i < 50; ++i) data += static_cast<char>(i * 7);
  // In pieces that do not end where tensors do.
  for (const auto& [begin, count] : {std::pair{0, 1}, {1, 0}, {1, 30}, {31, 19}})
    ASSERT_TRUE((*writer)->append(bytes_of(data.substr(begin, count))));
  ASSERT_TRUE((*writer)->finish());

  const std::string file = contents();
  const uint64_t length = header_bytes(file);
  EXPECT_EQ((8 + length) % 8, 0u);
  EXPECT_EQ(file.substr(8 + length), data);
  EXPECT_EQ(file[8], '{');
  const auto header = boost::json::parse(file.substr(8, length)).as_object();
  ASSERT_EQ(header.size(), 5u);
  EXPECT_EQ(boost::json::serialize(header.at("__metadata__")), R"({"format":"pt"})");
  EXPECT_EQ(boost::json::serialize(header.at("odd")),
            R"({"dtype":"BF16","shape":[3],"data_offsets":[0,6]})");
  EXPECT_EQ(boost::json::serialize(header.at("matrix")),
            R"({"dtype":"F32","shape":[2,5],"data_offsets":[6,46]})");
  EXPECT_EQ(boost::json::serialize(header.at("empty")),
            R"({"dtype":"F32","shape":[0,7],"data_offsets":[46,46]})");
  EXPECT_EQ(boost::json::serialize(header.at("scalar")),
            R"({"dtype":"F32","shape":[],"data_offsets":[46,50]})");
}

TEST_F(SafetensorsTest, WhateverTheNamesTheDataIsAligned) {
  for (size_t length = 1; length < 20; ++length) {
    const std::vector<TensorEntry> one = {{std::string(length, 'x'), TensorType::kFloat32, {1}}};
    const auto header = safetensors_header(one);
    ASSERT_TRUE(header);
    EXPECT_EQ(header->size() % 8, 0u);
    EXPECT_EQ(header->size(), 8 + header_bytes(*header));
  }
}

TEST_F(SafetensorsTest, NamesThatReadersRefuseAreRefused) {
  for (const std::string& name : {std::string(), std::string("__metadata__"), std::string("a\nb"),
                                  std::string("a\0b", 3), std::string("\xc3\xa9")}) {
    const std::vector<TensorEntry> one = {{name, TensorType::kFloat32, {1}}};
    const auto header = safetensors_header(one);
    ASSERT_FALSE(header) << name;
    EXPECT_EQ(header.error().code, ErrorCode::kConfigValue);
    EXPECT_FALSE(SafetensorsWriter::create(path(), one));
    EXPECT_FALSE(std::filesystem::exists(path()));
  }
  const std::vector<TensorEntry> twice = {{"a", TensorType::kFloat32, {1}},
                                          {"a", TensorType::kFloat32, {2}}};
  const auto header = safetensors_header(twice);
  ASSERT_FALSE(header);
  EXPECT_NE(header.error().message.find("\"a\" stands twice"), std::string::npos);
}

TEST_F(SafetensorsTest, AFileThatIsThereIsNotTouched) {
  folder_.write("a.safetensors", "mine");
  const std::vector<TensorEntry> one = {{"a", TensorType::kFloat32, {1}}};
  const auto writer = SafetensorsWriter::create(path(), one);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code, ErrorCode::kFileIo);
  EXPECT_EQ(contents(), "mine");
  EXPECT_EQ(write_durable(path(), "other").error().code, ErrorCode::kFileIo);
  EXPECT_EQ(contents(), "mine");
}

}  // namespace
}  // namespace holdfast::storage
