#include "train/data/mapped_tokens.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/checksum.h"

namespace holdfast::train {
namespace {

template <class Token>
class MappedTokens final : public TokenFile {
 public:
  MappedTokens(std::shared_ptr<MappedBytes> file, size_t offset, uint64_t tokens,
               uint32_t vocabulary, uint64_t checksum)
      : file_(std::move(file)),
        offset_(offset),
        tokens_(tokens),
        vocabulary_(vocabulary),
        checksum_(checksum) {}
  uint64_t size() const override { return tokens_; }
  uint32_t vocabulary() const override { return vocabulary_; }
  uint64_t checksum() const override { return checksum_; }
  void read(uint64_t begin, uint64_t count, int32_t* out) const override {
    CHECK(begin <= tokens_ && count <= tokens_ - begin);
    const std::byte* from = file_->bytes().data() + offset_ + begin * sizeof(Token);
    for (uint64_t i = 0; i < count; ++i) {
      Token token;
      std::memcpy(&token, from + i * sizeof(Token), sizeof token);
      out[i] = static_cast<int32_t>(token);
    }
  }

 private:
  const std::shared_ptr<MappedBytes> file_;
  const size_t offset_;
  const uint64_t tokens_;
  const uint32_t vocabulary_;
  const uint64_t checksum_;
};

}  // namespace

Result<std::shared_ptr<MappedBytes>> MappedBytes::map(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return fail(ErrorCode::kDataMissing, fmt::format("{}: {}", path.string(), strerror(errno)));
  struct stat status {};
  void* data = nullptr;
  int error = ::fstat(fd, &status) == 0 ? 0 : errno;
  if (error == 0 && !S_ISREG(status.st_mode)) error = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
  const auto size = static_cast<size_t>(status.st_size);
  if (error == 0 && size > 0) {
    data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) error = errno;
  }
  ::close(fd);
  if (error != 0)
    return fail(ErrorCode::kDataMissing, fmt::format("{}: {}", path.string(), strerror(error)));
  return std::shared_ptr<MappedBytes>(new MappedBytes(static_cast<const std::byte*>(data), size));
}

MappedBytes::~MappedBytes() {
  if (size_ > 0) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::unique_ptr<TokenFile> make_mapped_tokens(std::shared_ptr<MappedBytes> file, size_t offset,
                                              uint64_t tokens, uint32_t token_bytes,
                                              uint32_t vocabulary,
                                              std::optional<uint64_t> checksum) {
  CHECK(offset + tokens * token_bytes <= file->bytes().size());
  const uint64_t sum =
      checksum ? *checksum : checksum64(file->bytes().subspan(offset, tokens * token_bytes));
  switch (token_bytes) {
    case 1:
      return std::make_unique<MappedTokens<uint8_t>>(std::move(file), offset, tokens, vocabulary,
                                                     sum);
    case 2:
      return std::make_unique<MappedTokens<uint16_t>>(std::move(file), offset, tokens, vocabulary,
                                                      sum);
    case 4:
      return std::make_unique<MappedTokens<int32_t>>(std::move(file), offset, tokens, vocabulary,
                                                     sum);
  }
  CHECK(false && "token width");
  return nullptr;
}

}  // namespace holdfast::train
