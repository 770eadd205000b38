#include "train/optimizer/shard_room.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "train/kernels/backends.h"

namespace holdfast::train {

template <class B>
void ShardRoom<B>::reserve(size_t elements) {
  CHECK(pieces_.empty());
  reserved_ = &pieces_.emplace_back((elements + 63) / 64 * 64);
}

template <class B>
bool ShardRoom<B>::place(uint32_t shard, size_t elements) {
  for (Piece& piece : pieces_)
    if (const auto offset = piece.free.take(elements)) {
      places_[shard] = {&piece, *offset, elements};
      return true;
    }
  return false;
}

template <class B>
void ShardRoom<B>::open(const std::map<uint32_t, size_t>& wanted) {
  for (auto it = places_.begin(); it != places_.end();) {
    const Place& at = it->second;
    const auto stays = wanted.find(it->first);
    if (stays != wanted.end()) {
      CHECK(stays->second == at.elements);
      ++it;
      continue;
    }
    if (at.elements > 0) at.piece->free.give_back(at.offset, at.elements);
    it = places_.erase(it);
  }
  pieces_.remove_if([&](const Piece& piece) {
    return &piece != reserved_ && piece.free.free_bytes() == piece.bank_elements;
  });

  std::vector<std::pair<size_t, uint32_t>> coming;  // the largest first: the small ones fit between
  for (const auto& [shard, elements] : wanted) {
    CHECK(elements % 64 == 0);
    if (!places_.contains(shard)) coming.emplace_back(elements, shard);
  }
  std::stable_sort(coming.begin(), coming.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  size_t missing = 0;
  std::vector<std::pair<size_t, uint32_t>> left;
  for (const auto& [elements, shard] : coming) {
    if (elements == 0) {
      places_[shard] = {};
    } else if (!place(shard, elements)) {
      missing += elements;
      left.emplace_back(elements, shard);
    }
  }
  if (missing == 0) return;
  pieces_.emplace_back(missing);
  for (const auto& [elements, shard] : left) CHECK(place(shard, elements));
}

template <class B>
float* ShardRoom<B>::find(uint32_t bank, uint32_t shard) {
  CHECK(bank < kBanks);
  static float nothing = 0;  // of a shard without elements
  const auto it = places_.find(shard);
  if (it == places_.end()) return nullptr;
  const Place& at = it->second;
  if (at.piece == nullptr) return &nothing;
  return at.piece->data.data() + bank * at.piece->bank_elements + at.offset;
}

template class ShardRoom<CpuBackend<float>>;
#define INSTANTIATE(B) template class ShardRoom<B>;
HOLDFAST_FOR_EACH_ACCELERATOR(INSTANTIATE)
#undef INSTANTIATE

}  // namespace holdfast::train
