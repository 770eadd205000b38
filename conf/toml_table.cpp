#include "conf/toml_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <toml++/toml.h>

#include "conf/node_config.h"

namespace holdfast::conf {

struct TomlTable::Document {
  struct Opened {
    const toml::table* node = nullptr;  // nullptr: absent in the file
    std::string name;                   // "model", empty for the root
    std::set<std::string> known;
  };
  std::filesystem::path file;
  toml::table root;
  std::vector<Opened> opened;
  std::optional<Error> error;

  std::string where(const toml::node& node) const {
    return fmt::format("{}:{}", file.string(), node.source().begin.line);
  }
  void fail_once(ErrorCode code, std::string message) {
    if (!error) error = Error{code, std::move(message)};
  }
};

namespace {

std::string full_name(const std::string& table, std::string_view key) {
  return table.empty() ? std::string(key) : fmt::format("{}.{}", table, key);
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::optional<std::string> nearest(const std::string& word, const std::set<std::string>& known) {
  std::optional<std::string> best;
  size_t least = std::max<size_t>(3, word.size() / 2) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

TomlTable::TomlTable(std::shared_ptr<Document> document, const void* node, std::string name)
    : document_(std::move(document)), index_(document_->opened.size()) {
  document_->opened.push_back({static_cast<const toml::table*>(node), std::move(name), {}});
}

Result<TomlTable> TomlTable::parse(const std::string& text, const std::filesystem::path& named) {
  auto document = std::make_shared<Document>();
  document->file = named;
  try {
    document->root = toml::parse(text, named.string());
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::kConfigSyntax,
                fmt::format("{}:{}: {}", named.string(), error.source().begin.line,
                            error.description()));
  }
  const void* root = &document->root;
  return TomlTable(std::move(document), root, "");
}

void TomlTable::wrong(const char* key, const std::string& wanted) {
  const Document::Opened& self = document_->opened[index_];
  document_->fail_once(ErrorCode::kConfigValue,
                       fmt::format("{}: {} must be {}", document_->where(*self.node->get(key)),
                                   full_name(self.name, key), wanted));
}

namespace {

// Marks the key as known; the node when the file has it.
template <class Opened>
const toml::node* look_up(Opened& self, const char* key) {
  self.known.insert(key);
  return self.node == nullptr ? nullptr : self.node->get(key);
}

}  // namespace

void TomlTable::text(const char* key, std::string& out) {
  const toml::node* node = look_up(document_->opened[index_], key);
  if (node == nullptr) return;
  if (auto value = node->value_exact<std::string>())
    out = *value;
  else
    wrong(key, "a string in quotes");
}

void TomlTable::boolean(const char* key, bool& out) {
  const toml::node* node = look_up(document_->opened[index_], key);
  if (node == nullptr) return;
  if (auto value = node->value_exact<bool>())
    out = *value;
  else
    wrong(key, "true or false");
}

void TomlTable::real(const char* key, double& out) {
  const toml::node* node = look_up(document_->opened[index_], key);
  if (node == nullptr) return;
  if (auto value = node->value_exact<double>())
    out = *value;
  else if (auto whole = node->value_exact<int64_t>())
    out = static_cast<double>(*whole);
  else
    wrong(key, "a number");
}

void TomlTable::real(const char* key, std::optional<double>& out) {
  if (look_up(document_->opened[index_], key) != nullptr) real(key, out.emplace(0));
}

void TomlTable::whole(const char* key, uint64_t& out, uint64_t most) {
  const toml::node* node = look_up(document_->opened[index_], key);
  if (node == nullptr) return;
  const auto value = node->value_exact<int64_t>();
  if (value && *value >= 0 && static_cast<uint64_t>(*value) <= most)
    out = static_cast<uint64_t>(*value);
  else
    wrong(key, fmt::format("a whole number from 0 to {}", most));
}

void TomlTable::bytes(const char* key, uint64_t& out) {
  const toml::node* node = look_up(document_->opened[index_], key);
  if (node == nullptr) return;
  if (auto value = node->value_exact<int64_t>(); value && *value >= 0) {
    out = static_cast<uint64_t>(*value);
    return;
  }
  if (auto value = node->value_exact<std::string>()) {
    if (auto parsed = parse_bytes(*value)) {
      out = *parsed;
      return;
    }
  }
  wrong(key, "a size as \"64MiB\", \"1GiB\" or a number of bytes");
}

bool TomlTable::has(const char* key) const {
  const Document::Opened& self = document_->opened[index_];
  return self.node != nullptr && self.node->contains(key);
}

TomlTable TomlTable::table(const char* key) {
  const toml::node* node = look_up(document_->opened[index_], key);
  const std::string name = full_name(document_->opened[index_].name, key);
  if (node != nullptr && !node->is_table()) {
    wrong(key, fmt::format("a section: [{}]", name));
    node = nullptr;
  }
  return TomlTable(document_, node == nullptr ? nullptr : node->as_table(), name);
}

Status TomlTable::finish() const {
  if (document_->error) return fail(*document_->error);
  for (const Document::Opened& table : document_->opened) {
    if (table.node == nullptr) continue;
    for (const auto& [key, node] : *table.node) {
      const std::string word(key.str());
      if (table.known.contains(word)) continue;
      std::string message = fmt::format("{}: unknown key {}", document_->where(node),
                                        full_name(table.name, word));
      if (const auto near = nearest(word, table.known))
        message += fmt::format(", did you mean {}?", full_name(table.name, *near));
      return fail(ErrorCode::kConfigUnknownKey, message);
    }
  }
  return {};
}

}  // namespace holdfast::conf
