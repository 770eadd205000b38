// Aligned columns for people; -o json is for programs.
#pragma once

#include <string>
#include <vector>

namespace holdfast::ctl {

class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  size_t rows() const { return rows_.size() - 1; }
  // Two spaces between columns, numbers to the right, no trailing blanks.
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// "1.5 GiB", "12.0 KiB", "17 B"
std::string bytes_text(uint64_t bytes);

}  // namespace holdfast::ctl
