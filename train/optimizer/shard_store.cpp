#include "train/optimizer/shard_store.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace holdfast::train {

// Keeps a bank from being overwritten, for a while.
class ShardStore::Guard final : public Protection {
 public:
  Guard(ShardStore& store, uint32_t bank, uint64_t generation, StateVersion state)
      : store_(store), bank_(bank), generation_(generation), state_(state) {}
  ~Guard() override {
    const MutexLock lock(store_.mutex_);
    Bank& bank = store_.banks_[bank_];
    if (bank.generation != generation_) return;
    --bank.guards;
    store_.changed_.notify_all();
  }
  StateVersion state() const override { return state_; }

  bool read_shard(uint32_t shard, std::span<std::byte> out) override {
    const std::vector<float>* data = nullptr;
    {
      const MutexLock lock(store_.mutex_);
      Bank& bank = store_.banks_[bank_];
      if (bank.generation != generation_) return false;
      const auto it = bank.data.find(shard);
      if (it == bank.data.end()) return false;
      data = &it->second;
      ++bank.readers;  // revoke() waits for us: the floats stay as they are while we copy
    }
    CHECK(out.size() == data->size() * sizeof(float));
    if (!out.empty()) std::memcpy(out.data(), data->data(), out.size());
    const MutexLock lock(store_.mutex_);
    --store_.banks_[bank_].readers;
    store_.changed_.notify_all();
    return true;
  }

 private:
  ShardStore& store_;
  const uint32_t bank_;
  const uint64_t generation_;
  const StateVersion state_;
};

ShardStore::ShardStore(const ParameterLayout& layout) : layout_(layout) {}
ShardStore::~ShardStore() = default;

std::vector<HeldShards> ShardStore::held() const {
  const MutexLock lock(mutex_);
  std::vector<HeldShards> held;
  for (const Bank& bank : banks_)
    if (bank.state && !bank.complete.empty())
      held.push_back({*bank.state, {bank.complete.begin(), bank.complete.end()}});
  std::sort(held.begin(), held.end(),
            [](const HeldShards& a, const HeldShards& b) { return a.state > b.state; });
  return held;
}

void ShardStore::revoke(Bank& bank) {
  ++bank.generation;
  bank.guards = 0;
  bank.patience_ms = 0;
  changed_.wait(mutex_, [&] { return bank.readers == 0; });  // bounded: the copy of one shard
}

void ShardStore::open(const std::vector<uint32_t>& owned, const StateVersion& base) {
  const MutexLock lock(mutex_);
  for (Bank& bank : banks_) revoke(bank);
  uint32_t keep = 0;
  for (uint32_t b = 0; b < banks_.size(); ++b)
    if (banks_[b].state == base) keep = b;

  Bank& kept = banks_[keep];
  if (kept.state != base) {
    kept.complete.clear();
    kept.state = base;
  }
  Bank& other = banks_[1 - keep];
  other.state.reset();
  other.complete.clear();
  const std::set<uint32_t> wanted(owned.begin(), owned.end());
  for (Bank* bank : {&kept, &other}) {
    std::erase_if(bank->data, [&](const auto& entry) { return !wanted.contains(entry.first); });
    std::erase_if(bank->complete, [&](uint32_t shard) { return !wanted.contains(shard); });
    for (const uint32_t shard : owned)
      bank->data[shard].resize(
          layout_.range(ShardId::unflat(shard, layout_.slices())).size() * 3);
  }
  owned_ = owned;
  current_ = base;
  bank_ = keep;
}

ShardView ShardStore::view(uint32_t bank, uint32_t shard) {
  std::vector<float>& data = banks_[bank].data.at(shard);
  const size_t n = data.size() / 3;
  return {{data.data(), n}, {data.data() + n, n}, {data.data() + 2 * n, n}};
}

ShardView ShardStore::load(uint32_t shard) {
  const MutexLock lock(mutex_);
  banks_[bank_].complete.erase(shard);
  return view(bank_, shard);
}

void ShardStore::set_loaded(uint32_t shard) {
  const MutexLock lock(mutex_);
  banks_[bank_].complete.insert(shard);
}

bool ShardStore::complete() const {
  const MutexLock lock(mutex_);
  return banks_[bank_].complete.size() == owned_.size();
}

void ShardStore::begin_update() {
  const MutexLock lock(mutex_);
  Bank& next = banks_[1 - bank_];
  if (next.guards > 0)
    changed_.wait_for(mutex_, std::chrono::milliseconds(next.patience_ms),
                      [&] { return next.guards == 0; });
  next.state.reset();
  next.complete.clear();
  revoke(next);
}

void ShardStore::commit_update(const StateVersion& made) {
  const MutexLock lock(mutex_);
  Bank& next = banks_[1 - bank_];
  next.state = made;
  next.complete = {owned_.begin(), owned_.end()};
  bank_ = 1 - bank_;
  current_ = made;
  changed_.notify_all();
}

std::optional<uint32_t> ShardStore::bank_of(Version version) const {
  for (uint32_t b = 0; b < banks_.size(); ++b)
    if (banks_[b].state && banks_[b].state->version == version &&
        banks_[b].complete.size() == owned_.size())
      return b;
  return std::nullopt;
}

std::unique_ptr<Protection> ShardStore::protect(Version version, int64_t max_wait_ms) {
  const MutexLock lock(mutex_);
  const auto b = bank_of(version);
  if (!b) return nullptr;
  Bank& bank = banks_[*b];
  ++bank.guards;
  bank.patience_ms = std::max(bank.patience_ms, max_wait_ms);
  return std::make_unique<Guard>(*this, *b, bank.generation, *bank.state);
}

}  // namespace holdfast::train
