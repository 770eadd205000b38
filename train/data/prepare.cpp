#include "train/data/prepare.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>

#include "base/checksum.h"
#include "train/data/token_format.h"

namespace holdfast::train {
namespace {

namespace fs = std::filesystem;

Result<std::vector<fs::path>> list_files(const std::vector<fs::path>& inputs) {
  std::vector<fs::path> files;
  for (const fs::path& input : inputs) {
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (!fs::exists(status))
      return fail(ErrorCode::kDataMissing, fmt::format("{}: there is no such file or folder",
                                                       input.string()));
    if (!fs::is_directory(status)) {
      files.push_back(input);
      continue;
    }
    std::vector<fs::path> found;
    const auto options = fs::directory_options::skip_permission_denied;
    for (fs::recursive_directory_iterator it(input, options, error), end; !error && it != end;
         it.increment(error))
      if (it->is_regular_file(error) && !it->is_symlink(error)) found.push_back(it->path());
    if (error)
      return fail(ErrorCode::kFileIo,
                  fmt::format("{}: cannot be listed: {}", input.string(), error.message()));
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

// nullopt: not readable, or not text.
std::optional<std::string> read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (in.bad() || text.find('\0') != std::string::npos) return std::nullopt;
  return text;
}

class TokenWriter {
 public:
  explicit TokenWriter(fs::path output)
      : output_(std::move(output)),
        temporary_(output_.string() + fmt::format(".{}.new", ::getpid())),
        out_(temporary_, std::ios::binary | std::ios::trunc) {
    keep_error();  // of opening it
    const TokenFileHeader empty{};
    out_.write(reinterpret_cast<const char*>(&empty), sizeof empty);
    keep_error();
  }
  ~TokenWriter() {
    std::error_code ignored;  // after finish() there is none
    fs::remove(temporary_, ignored);
  }

  void add(std::string_view text) {
    checksum_.add(std::as_bytes(std::span(text)));
    for (const char c : text) largest_ = std::max(largest_, static_cast<uint8_t>(c));
    errno = 0;
    out_.write(text.data(), static_cast<std::streamsize>(text.size()));
    keep_error();
    tokens_ += text.size();
  }

  Status finish() {
    TokenFileHeader header;
    std::memcpy(header.magic, kTokenMagic, sizeof kTokenMagic);
    header.format = kTokenFormat;
    header.token_bytes = 1;
    header.tokens = tokens_;
    header.vocabulary = largest_ + 1U;
    header.payload_checksum = checksum_.value();
    header.header_checksum = checksum64(
        std::as_bytes(std::span(&header, 1)).first(offsetof(TokenFileHeader, header_checksum)));
    errno = 0;
    out_.seekp(0);
    out_.write(reinterpret_cast<const char*>(&header), sizeof header);
    out_.close();
    keep_error();
    if (error_ != 0) {
      return fail(error_ == ENOSPC ? ErrorCode::kDiskFull : ErrorCode::kFileIo,
                  fmt::format("{}: cannot be written: {}", temporary_.string(), strerror(error_)));
    }
    std::error_code error;
    fs::rename(temporary_, output_, error);
    if (error)
      return fail(ErrorCode::kFileIo, fmt::format("{}: cannot be renamed to {}: {}",
                                                  temporary_.string(), output_.string(),
                                                  error.message()));
    return {};
  }
  uint64_t tokens() const { return tokens_; }
  bool failed() const { return error_ != 0; }  // finish() says why

 private:
  void keep_error() {
    if (!out_ && error_ == 0) error_ = errno != 0 ? errno : EIO;
  }

  const fs::path output_;
  const fs::path temporary_;
  std::ofstream out_;
  Checksum checksum_;
  uint64_t tokens_ = 0;
  int error_ = 0;  // errno of the first write that failed
  uint8_t largest_ = 0;
};

}  // namespace

Result<PrepareReport> prepare_tokens(const PrepareOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<fs::path> files, list_files(options.inputs));
  TokenWriter writer(options.output);
  PrepareReport report;
  if (writer.failed()) return tl::unexpected(writer.finish().error());
  for (const fs::path& file : files) {
    const uint64_t room = options.max_bytes == 0 ? UINT64_MAX : options.max_bytes - writer.tokens();
    if (room == 0) break;
    auto text = read_text(file);
    if (!text) {
      ++report.skipped;
      continue;
    }
    if (text->empty()) continue;
    if (text->back() != '\n') text->push_back('\n');
    writer.add(std::string_view(*text).substr(0, room));
    if (writer.failed()) break;
    ++report.files;
  }
  report.tokens = writer.tokens();
  if (report.tokens == 0)
    return fail(ErrorCode::kDataEmpty,
                fmt::format("no text was found in {} files under {} ({} were skipped)", files.size(),
                            options.inputs.empty() ? "nothing" : options.inputs.front().string(),
                            report.skipped));
  RETURN_IF_ERROR(writer.finish());
  return report;
}

}  // namespace holdfast::train
