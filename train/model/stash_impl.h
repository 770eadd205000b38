// What F keeps of one micro-batch on its lane, and how the memory of one is used again for the
// next.
#pragma once

#include <memory>
#include <span>
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
  Room<typename B::Value> x_ND;  // where the last block writes to, also where the stage has no head
  Room<typename B::Value> normed_ND, dnormed_ND;
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

  explicit StashRoom(size_t layers) : blocks(layers) {}  // of the stage
  std::vector<BlockStash<B>> blocks;
  HeadStash<B> head;
  Room<typename B::Value> dembedded_ND;  // where the stage embeds
  Room<int32_t> tokens_N, targets_N;
  Room<double> losses;      // cross entropy; load balance and z of every layer
  Room<uint32_t> counts_LE;
  HostRoom<int32_t> host_tokens_2N;  // tokens, then targets
  HostRoom<double> host_losses;
  HostRoom<uint32_t> host_counts_LE;
};

// The same of the rows that a round brought to the experts hosted here.
template <class B>
struct HostedRoom {
  explicit HostedRoom(size_t layers) : blocks(layers) {}
  std::vector<MoeHosted<B>> blocks;
};

// Rooms that are not in use, for any number of stashes.
template <class R>
class RoomPool {
 public:
  explicit RoomPool(size_t layers) : layers_(layers) {}
  std::unique_ptr<R> take() {
    if (free_.empty()) return std::make_unique<R>(layers_);
    std::unique_ptr<R> room = std::move(free_.back());
    free_.pop_back();
    return room;
  }
  void give_back(std::unique_ptr<R> room) { free_.push_back(std::move(room)); }

 private:
  const size_t layers_;
  std::vector<std::unique_ptr<R>> free_;
};

// A room out of a pool, that goes back there.
template <class R>
class PooledRoom {
 public:
  explicit PooledRoom(std::shared_ptr<RoomPool<R>> pool)
      : pool_(std::move(pool)), room_(pool_->take()) {}
  ~PooledRoom() { pool_->give_back(std::move(room_)); }
  PooledRoom(const PooledRoom&) = delete;
  PooledRoom& operator=(const PooledRoom&) = delete;
  R* operator->() const { return room_.get(); }
  R& operator*() const { return *room_; }

 private:
  const std::shared_ptr<RoomPool<R>> pool_;
  std::unique_ptr<R> room_;
};

template <class B>
struct StashImpl final : Stash<B> {
  explicit StashImpl(std::shared_ptr<RoomPool<StashRoom<B>>> pool) : room(std::move(pool)) {}

  MicroBatchLoss loss() const override {
    const auto told = room->host_losses.span();
    MicroBatchLoss loss;
    loss.cross_entropy = told[0];
    for (size_t i = 1; i < told.size(); i += 2) {
      loss.layers.push_back({told[i], told[i + 1]});
      loss.load_balance += told[i];
      loss.z_loss += told[i + 1];
    }
    const auto counts = room->host_counts_LE.span();
    loss.popularity.assign(counts.begin(), counts.end());
    return loss;
  }
  std::span<const typename B::Value> output() const override { return handed_on; }
  std::span<const typename B::Value> handed_back() const override { return given_back; }
  size_t tokens() const { return size_t{sequences} * context; }

  PooledRoom<StashRoom<B>> room;
  uint32_t sequences = 0, context = 0;  // of the micro-batch; 0 on a lane without one
  bool input_gradient_done = false;
  std::span<const typename B::Value> handed_on, given_back;  // to the neighbouring stages
};

template <class B>
struct HostedImpl final : Hosted<B> {
  explicit HostedImpl(std::shared_ptr<RoomPool<HostedRoom<B>>> pool) : room(std::move(pool)) {}
  PooledRoom<HostedRoom<B>> room;
  bool input_gradient_done = false;
};

}  // namespace holdfast::train
