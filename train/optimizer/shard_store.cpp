#include "train/optimizer/shard_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {

// Keeps a bank from being overwritten, for a while.
template <class B>
class ShardStore<B>::Guard final : public Protection {
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

  Status read_shard(uint32_t shard, std::span<std::byte> out, const PieceFn& copied) override {
    const float* data = nullptr;
    {
      const MutexLock lock(store_.mutex_);
      Bank& bank = store_.banks_[bank_];
      if (bank.generation == generation_) data = store_.room_.find(bank_, shard);
      if (data == nullptr)
        return fail(ErrorCode::kTimeout,
                    fmt::format("the update took the buffer of {} back before shard {} was copied",
                                to_string(state_), shard));
      ++bank.readers;  // revoke() waits for us: the floats stay as they are while we copy
    }
    const size_t elements = store_.elements(shard);
    const size_t bytes = elements * sizeof(float);
    CHECK(out.size() == 3 * bytes);
    Status read;
    for (size_t run = 0; read && run < 3; ++run)
      read = read_run(data + run * stride(elements), out.subspan(run * bytes, bytes), copied);
    const MutexLock lock(store_.mutex_);
    --store_.banks_[bank_].readers;
    store_.changed_.notify_all();
    return read;
  }

 private:
  Status read_run(const float* from, std::span<std::byte> out, const PieceFn& copied) {
    for (size_t at = 0; at < out.size(); at += kPieceBytes) {
      const auto piece = out.subspan(at, std::min(kPieceBytes, out.size() - at));
      RETURN_IF_ERROR(store_.read(from + at / sizeof(float), piece));
      copied(piece);
    }
    return {};
  }
  // An accelerator's copies are fast in large pieces only.
  static constexpr size_t kPieceBytes = B::kHostMemory ? size_t{256} << 10 : size_t{4} << 20;

  ShardStore& store_;
  const uint32_t bank_;
  const uint64_t generation_;
  const StateVersion state_;
};

template <class B>
ShardStore<B>::ShardStore(typename B::Device& device, const ParameterLayout& layout)
    : device_(device), readers_{Reader(device), Reader(device)}, layout_(layout) {}
template <class B>
ShardStore<B>::~ShardStore() = default;

template <class B>
size_t ShardStore<B>::elements(uint32_t shard) const {
  return layout_.range(ShardId::unflat(shard, layout_.slices())).size();
}

template <class B>
std::vector<HeldShards> ShardStore<B>::held() const {
  const MutexLock lock(mutex_);
  std::vector<HeldShards> held;
  for (const Bank& bank : banks_)
    if (bank.state && !bank.complete.empty())
      held.push_back({*bank.state, {bank.complete.begin(), bank.complete.end()}});
  std::sort(held.begin(), held.end(),
            [](const HeldShards& a, const HeldShards& b) { return a.state > b.state; });
  return held;
}

template <class B>
Status ShardStore<B>::read(const float* from, std::span<std::byte> out) {
  if constexpr (B::kHostMemory) {  // it has no state: any number at a time
    return typename B::Reader(device_).read(from, out.size(), out.data());
  } else {
    Reader& reader =
        readers_[next_reader_.fetch_add(1, std::memory_order_relaxed) % readers_.size()];
    const MutexLock lock(reader.mutex);
    return reader.copier.read(from, out.size(), out.data());
  }
}

template <class B>
void ShardStore<B>::revoke(Bank& bank) {
  ++bank.generation;
  bank.guards = 0;
  bank.patience_ms = 0;
  while (bank.readers > 0) changed_.wait(mutex_);  // bounded: the copy of one shard
}

template <class B>
void ShardStore<B>::reserve(size_t elements) {
  const MutexLock lock(mutex_);
  room_.reserve(3 * elements);
}

template <class B>
void ShardStore<B>::open(const std::vector<uint32_t>& owned, const StateVersion& base) {
  const MutexLock lock(mutex_);
  for (Bank& bank : banks_) revoke(bank);
  loaded_.clear();
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
  std::map<uint32_t, size_t> wanted;
  for (const uint32_t shard : owned) wanted[shard] = 3 * stride(elements(shard));
  std::erase_if(kept.complete, [&](uint32_t shard) { return !wanted.contains(shard); });
  room_.open(wanted);
  owned_ = owned;
  current_ = base;
  bank_ = keep;
}

template <class B>
ShardView ShardStore<B>::view(uint32_t bank, uint32_t shard) {
  mutex_.only_writer_reads();
  float* data = room_.find(bank, shard);
  CHECK(data != nullptr, "shard {} is not owned", shard);
  const size_t n = elements(shard);
  const size_t step = stride(n);
  return {{data, n}, {data + step, n}, {data + 2 * step, n}};
}

template <class B>
template <class Upload>
void ShardStore<B>::upload_runs(uint32_t shard, std::span<const std::byte> payload,
                                Upload upload) {
  {
    const MutexLock lock(mutex_);
    banks_[bank_].complete.erase(shard);
  }
  const ShardView to = now(shard);
  const size_t bytes = to.master.size_bytes();
  CHECK(payload.size() == 3 * bytes);
  const auto all = [&] {
    upload(payload.data(), bytes, to.master.data());
    upload(payload.data() + bytes, bytes, to.m.data());
    upload(payload.data() + 2 * bytes, bytes, to.v.data());
  };
  if constexpr (B::kHostMemory) {
    all();
  } else {
    const MutexLock lock(device_mutex_);
    device_.use();  // by this thread
    all();
  }
  const MutexLock lock(mutex_);
  loaded_.push_back(shard);
}

template <class B>
void ShardStore<B>::load(uint32_t shard, std::span<const std::byte> payload) {
  upload_runs(shard, payload, [&](const std::byte* from, size_t bytes, float* to) {
    upload(device_, reinterpret_cast<const float*>(from), bytes / sizeof(float), to);
  });
}

template <class B>
void ShardStore<B>::load_now(uint32_t shard, std::span<const std::byte> payload) {
  upload_runs(shard, payload, [&](const std::byte* from, size_t bytes, float* to) {
    upload_now(device_, from, bytes, to);
  });
}

template <class B>
Status ShardStore<B>::finish_loading() {
  Status finished;
  {
    const MutexLock lock(device_mutex_);
    finished = device_.finish();
  }
  const MutexLock lock(mutex_);
  if (finished) banks_[bank_].complete.insert(loaded_.begin(), loaded_.end());
  loaded_.clear();
  return finished;
}

template <class B>
bool ShardStore<B>::complete() const {
  const MutexLock lock(mutex_);
  return banks_[bank_].complete.size() == owned_.size();
}

template <class B>
double ShardStore<B>::begin_update() {
  const MutexLock lock(mutex_);
  const auto begun = std::chrono::steady_clock::now();
  Bank& next = banks_[1 - bank_];
  const bool held = next.guards > 0;
  const auto deadline = begun + std::chrono::milliseconds(next.patience_ms);
  while (next.guards > 0)
    if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout) break;
  next.state.reset();
  next.complete.clear();
  revoke(next);
  if (!held) return 0;
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

template <class B>
void ShardStore<B>::commit_update(const StateVersion& made) {
  const MutexLock lock(mutex_);
  Bank& next = banks_[1 - bank_];
  next.state = made;
  next.complete = {owned_.begin(), owned_.end()};
  bank_ = 1 - bank_;
  current_ = made;
  changed_.notify_all();
}

template <class B>
std::optional<uint32_t> ShardStore<B>::bank_of(Version version) const {
  for (uint32_t b = 0; b < banks_.size(); ++b)
    if (banks_[b].state && banks_[b].state->version == version &&
        banks_[b].complete.size() == owned_.size())
      return b;
  return std::nullopt;
}

template <class B>
std::unique_ptr<Protection> ShardStore<B>::protect(Version version, int64_t max_wait_ms) {
  const MutexLock lock(mutex_);
  const auto b = bank_of(version);
  if (!b) return nullptr;
  Bank& bank = banks_[*b];
  ++bank.guards;
  bank.patience_ms = std::max(bank.patience_ms, max_wait_ms);
  return std::make_unique<Guard>(*this, *b, bank.generation, *bank.state);
}

template class ShardStore<CpuBackend<float>>;
#define INSTANTIATE(B) template class ShardStore<B>;
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
