// What F keeps of one micro-batch on its lane, and how the memory of one is used again for the
// next.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "train/model/attention_block.h"
#include "train/model/moe_block.h"
#include "train/model/moe_model.h"

namespace holdfast::train {

template <class B>
struct BlockStash {
  AttentionStash<B> attention;
  MoeStash<B> moe;
};

template <class B>
struct HeadStash {
  template <class E>
  using Room = typename B::template Room<E>;
  Room<typename B::Value> x_ND, normed_ND, dnormed_ND;
  Room<typename B::Stat> inverse_rms_N, losses_N;
  Room<typename B::Value> logits_NV;  // F makes their gradients of them
};

// The tensors of one micro-batch; used again for the next, so that memory is touched once.
template <class B>
struct StashRoom {
  template <class E>
  using Room = typename B::template Room<E>;
  template <class E>
  using HostRoom = typename B::template HostRoom<E>;

  explicit StashRoom(size_t layers) : blocks(layers) {}
  std::vector<BlockStash<B>> blocks;
  HeadStash<B> head;
  Room<typename B::Value> dembedded_ND;
  Room<int32_t> tokens_N, targets_N;
  Room<double> losses;      // cross entropy, load balance, z
  Room<uint32_t> counts_LE;
  HostRoom<int32_t> host_tokens_2N;  // tokens, then targets
  HostRoom<double> host_losses;
  HostRoom<uint32_t> host_counts_LE;
};

template <class B>
using RoomPool = std::vector<std::unique_ptr<StashRoom<B>>>;

template <class B>
struct StashImpl final : Stash<B> {
  StashImpl(std::shared_ptr<RoomPool<B>> from, size_t layers) : pool(std::move(from)) {
    if (pool->empty()) {
      room = std::make_unique<StashRoom<B>>(layers);
    } else {
      room = std::move(pool->back());
      pool->pop_back();
    }
  }
  ~StashImpl() override { pool->push_back(std::move(room)); }
  StashImpl(const StashImpl&) = delete;
  StashImpl& operator=(const StashImpl&) = delete;

  MicroBatchLoss loss() const override {
    const double* told = room->host_losses.data();
    const auto counts = room->host_counts_LE.span();
    return {told[0], told[1], told[2], {counts.begin(), counts.end()}};
  }
  size_t tokens() const { return size_t{sequences} * context; }

  std::shared_ptr<RoomPool<B>> pool;
  std::unique_ptr<StashRoom<B>> room;
  uint32_t sequences = 0, context = 0;  // of the micro-batch; 0 on a lane without one
  bool input_gradient_done = false;
};

}  // namespace holdfast::train
