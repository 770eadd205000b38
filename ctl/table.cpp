#include "ctl/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace holdfast::ctl {
namespace {

bool is_number(const std::string& cell) {
  if (cell.empty() || cell == "-") return true;
  return cell.find_first_not_of("0123456789.,-+%e") == std::string::npos;
}

}  // namespace

std::string Table::text() const {
  std::vector<size_t> width;
  std::vector<bool> right;
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t c = 0; c < rows_[r].size(); ++c) {
      if (c >= width.size()) {
        width.push_back(0);
        right.push_back(true);
      }
      width[c] = std::max(width[c], rows_[r][c].size());
      if (r > 0 && !is_number(rows_[r][c])) right[c] = false;
    }
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      if (c > 0) line += "  ";
      line += right[c] && rows_.size() > 1 ? fmt::format("{:>{}}", row[c], width[c])
                                           : fmt::format("{:<{}}", row[c], width[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string bytes_text(uint64_t bytes) {
  constexpr std::array units = {"B", "KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, units[unit]);
}

}  // namespace holdfast::ctl
