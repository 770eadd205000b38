// The twin of the RocksDB catalog: the same order, the same answers, nothing on disk.
#include <map>

#include "base/mutex.h"
#include "storage/catalog/catalog.h"
#include "storage/catalog/keys.h"

namespace holdfast::storage {
namespace {

class MemoryCatalog final : public Catalog {
 public:
  Result<std::optional<std::string>> get(const std::string& key) override {
    const MutexLock lock(mutex_);
    const auto found = entries_.find(key);
    if (found == entries_.end()) return std::optional<std::string>();
    return std::optional<std::string>(found->second);
  }

  Status write(const std::vector<Write>& writes, Durability) override {
    const MutexLock lock(mutex_);
    for (const Write& write : writes) {
      if (write.value)
        entries_[write.key] = *write.value;
      else
        entries_.erase(write.key);
    }
    return {};
  }

  Status compare_and_swap(const std::string& key, const std::optional<std::string>& expected,
                          const std::string& value) override {
    const MutexLock lock(mutex_);
    const auto found = entries_.find(key);
    const bool holds =
        expected ? found != entries_.end() && found->second == *expected : found == entries_.end();
    if (!holds) return fail(swap_conflict(key));
    entries_[key] = value;
    return {};
  }

  Result<std::vector<Entry>> scan(const std::string& prefix, const std::string& from, size_t limit,
                                  bool newest_first) override {
    const MutexLock lock(mutex_);
    const auto begin = entries_.lower_bound(std::max(prefix, from));
    const std::string after = prefix_end(prefix);
    const auto end = after.empty() ? entries_.end() : entries_.lower_bound(after);
    std::vector<Entry> found;
    // `from` may lie behind the whole prefix.
    if (!after.empty() && from >= after) return found;
    if (newest_first) {
      for (auto at = end; at != begin && found.size() < limit;) found.push_back(*--at);
    } else {
      for (auto at = begin; at != end && found.size() < limit; ++at) found.push_back(*at);
    }
    return found;
  }

 private:
  Mutex mutex_;
  std::map<std::string, std::string> entries_ GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<Catalog> make_memory_catalog() { return std::make_unique<MemoryCatalog>(); }

}  // namespace holdfast::storage
