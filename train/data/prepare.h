// Making a token file from text: bytes are tokens (vocabulary 256).
#pragma once

#include <boost/describe.hpp>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/result.h"

namespace holdfast::train {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  // files or folders
  std::filesystem::path output;
  uint64_t max_bytes = 0;  // of text; 0: all
};

struct PrepareReport {
  uint64_t tokens = 0;
  uint64_t files = 0;
  uint64_t skipped = 0;  // not text (a NUL byte), or not readable
};
BOOST_DESCRIBE_STRUCT(PrepareReport, (), (tokens, files, skipped))

// Files of a folder in the order of their paths, so that the same folder gives the same file; links are
// not followed. Between files stands one newline. Written under a temporary name and renamed.
// kDataMissing, kDataEmpty, kFileIo, kDiskFull.
Result<PrepareReport> prepare_tokens(const PrepareOptions& options);

}  // namespace holdfast::train
