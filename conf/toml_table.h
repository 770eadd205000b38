// Reading one TOML table into a struct: every key is asked for once, what is left over is unknown. The
// first error is kept and names file, line and key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"

namespace holdfast::conf {

class TomlTable {
 public:
  // The root table of a document. kConfigSyntax with line and column.
  static Result<TomlTable> parse(const std::string& text, const std::filesystem::path& named);

  // Each leaves `out` as it is when the key is absent.
  void text(const char* key, std::string& out);
  void boolean(const char* key, bool& out);
  void real(const char* key, double& out);
  void real(const char* key, std::optional<double>& out);
  template <class Integer>
  void integer(const char* key, Integer& out) {
    uint64_t value = out;
    whole(key, value, std::numeric_limits<Integer>::max());
    out = static_cast<Integer>(value);
  }
  // A string as "64MiB" or a plain number of bytes.
  void bytes(const char* key, uint64_t& out);
  bool has(const char* key) const;  // whether the file has it; it is not known yet for that
  // A sub-table; empty when absent. Its errors count for this document too.
  TomlTable table(const char* key);

  // The first error of the document, unknown keys of every table that was opened included.
  Status finish() const;

 private:
  struct Document;
  TomlTable(std::shared_ptr<Document> document, const void* node, std::string name);
  void whole(const char* key, uint64_t& out, uint64_t most);
  void wrong(const char* key, const std::string& wanted);

  std::shared_ptr<Document> document_;
  size_t index_ = 0;  // of this table in the document's list of opened tables
};

// The known word nearest to `word` by edit distance; nullopt when none is near.
std::optional<std::string> nearest(const std::string& word, const std::set<std::string>& known);

}  // namespace holdfast::conf
