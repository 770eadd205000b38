// The abortable communicator: what a stage group talks through. Every collective is called by all
// ranks in the same order by one thread per rank; abort() may be called from any other thread at any
// time and makes the collective under way, and all later ones, return kCommAborted within 1 s.
//
// Errors of every collective: kCommAborted (abort() was called here), kCommPeerLost (a peer's process
// ended or aborted; the message names the rank where known), kCommTimeout (the deadline of the
// collective passed). After an error the communicator only returns errors, buffers are undefined, and
// ranks may disagree on whether the collective happened: nothing may be concluded from having
// finished one. Bytes only: reductions are done by the receiver, in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace holdfast::train {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual uint32_t rank() const = 0;
  virtual uint32_t size() const = 0;

  // Sends send_bytes[r] bytes to rank r, taken from `send` in rank order; receives recv_bytes[r]
  // bytes from rank r into `recv` in rank order. Counts must agree on both sides (exchange them
  // first with all_gather when unknown). Zero counts and empty buffers are allowed.
  virtual Status all_to_all(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                            std::span<std::byte> recv, std::span<const size_t> recv_bytes) = 0;

  // Concatenates every rank's `send` in rank order into `recv`; recv_bytes[r] is rank r's size.
  virtual Status all_gather(std::span<const std::byte> send, std::span<std::byte> recv,
                            std::span<const size_t> recv_bytes) = 0;

  // Idempotent, callable from any thread, never blocks for long.
  virtual void abort() = 0;
};

// Hands bytes from one rank of a view to another: between two ranks, in the order of their sends.
class HandOvers {
 public:
  virtual ~HandOvers() = default;
  // Hands `bytes` to rank `to`, which takes them with receive(). Returns at once, whether the other side
  // waits or not.
  virtual Status send(uint32_t to, std::vector<std::byte> bytes) = 0;
  // The next that rank `from` hands over; its size is known on both sides. Waits as a collective does.
  virtual Status receive(uint32_t from, std::span<std::byte> into) = 0;
  // Returns when all that was handed over has left, so that nothing piles up. That is when it was received.
  virtual Status flush() = 0;
  // Only what was handed over before the last call of either: who calls this once a step need not wait for
  // receivers that are still in the step.
  virtual Status flush_older() = 0;
};

// Hand-overs apart from the view's own, for one thread, which may be another than the view's.
class HandOverLine : public HandOvers {
 public:
  // Ends this line's waits, the one under way and all later ones, with kCommAborted; other lines, the view
  // and the other ranks go on. From any thread.
  virtual void abort() = 0;
};

// All ranks of a view: collectives over all of them, groups of some of them, and hand-overs. One thread per
// rank calls all of it, groups included, lines excepted; an abort here ends everything.
class ViewCommunicator : public Communicator, public HandOvers {
 public:
  // Collectives over `ranks`, ascending, this one among them; rank i of the group is ranks[i]. Every
  // rank of a group makes it with the same list, and groups that overlap in the same order. Talks to
  // nobody; not to be used when this is gone.
  virtual std::unique_ptr<Communicator> group(std::vector<uint32_t> ranks) = 0;

  // The line of this number (below kMostLines), once on a rank: what is sent on it is received on it. Talks
  // to nobody. It waits timeout_ms at most, and only returns errors when this is gone.
  static constexpr uint32_t kMostLines = 1 << 12;
  virtual std::unique_ptr<HandOverLine> line(uint32_t number, int64_t timeout_ms) = 0;
};

// Making a communicator takes two phases, so that addresses travel with the view (section 9 of the
// design: restored, then go) and no rendezvous store can hang.
class CommunicatorFactory {
 public:
  virtual ~CommunicatorFactory() = default;

  // Phase 1: opens what this rank listens on; the returned blob goes to every other rank.
  // One prepared communicator at a time: a second prepare drops the first.
  virtual Result<std::string> prepare(uint32_t rank, uint32_t size) = 0;
  // Phase 2: connects to all; addresses[r] is rank r's blob from prepare. Bounded by timeout_ms
  // (kCommSetup naming the rank that could not be reached). collective_timeout_ms bounds each later
  // collective. abort_connect() from another thread makes a connect under way return kCommAborted.
  virtual Result<std::unique_ptr<ViewCommunicator>> connect(std::span<const std::string> addresses,
                                                            int64_t timeout_ms,
                                                            int64_t collective_timeout_ms) = 0;
  virtual void abort_connect() = 0;
};

}  // namespace holdfast::train
