// One-sided copies between the arenas of two nodes. A Fabric registers one memory region (the
// arena) and serves it to peers; a Channel copies between ranges of the two regions. libfabric MSG
// endpoints in production, an in-process twin in tests, one conformance suite for both.
//
// A write that failed, timed out or was flushed by close() may still have landed partly or may land
// late: the receiver counts a block only once it is published with a checksum that has been
// verified.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace holdfast::storage {

// What a peer needs to reach a region; travels as opaque text in peer control messages.
using FabricAddress = std::string;

// Called exactly once per operation, on the fabric's progress thread: must not block, and must not
// call back into the fabric except to start new operations.
using FabricDone = std::function<void(Status)>;

class Channel {
 public:
  virtual ~Channel() = default;  // closes

  // Copies `length` bytes from local_offset of our region to remote_offset of the peer's. Never
  // blocks; done gets kFabricLost, kFabricTimeout (own deadline, timeout_ms after the start),
  // kQueueFull (too many under way) or success: the bytes are then in the peer's memory.
  virtual void write(uint64_t local_offset, uint64_t remote_offset, uint64_t length,
                     FabricDone done) = 0;
  virtual void read(uint64_t local_offset, uint64_t remote_offset, uint64_t length,
                    FabricDone done) = 0;
  virtual bool lost() const = 0;
  // Flushes: every operation under way is done (with kFabricLost) before close returns.
  virtual void close() = 0;
};

// So many channels of one fabric to one peer live at a time: the peer ends the oldest when another
// comes. Of a peer that vanished without a word nothing else would tell.
inline constexpr size_t kMaxChannelsFromOne = 8;

class Fabric {
 public:
  virtual ~Fabric() = default;  // closes every channel

  virtual const FabricAddress& address() const = 0;
  // Blocks for at most timeout_ms; kFabricLost, kFabricTimeout, kFabricProtocol (other release).
  virtual Result<std::unique_ptr<Channel>> connect(const FabricAddress& peer) = 0;
};

struct FabricOptions {
  std::string provider = "auto";  // auto: the first of verbs, tcp that this machine has
  std::string address = "127.0.0.1";
  uint16_t port = 0;
  uint32_t timeout_ms = 5'000;  // of every operation and connect
  size_t max_channels_in = 1024;  // that peers have open to us; the oldest gives way to another
};

// Registers `region`, which must outlive the fabric. kFabricUnavailable, kAddressInUse.
Result<std::unique_ptr<Fabric>> open_libfabric(const FabricOptions& options,
                                               std::span<std::byte> region);

// The twin: fabrics of one FabricNetwork reach each other by memcpy on a progress thread. Tests may
// cut nodes off, silence them and let aborted writes land late. A name that was cut or closed can
// be opened again, under a new address.
class FabricNetwork {
 public:
  FabricNetwork();
  ~FabricNetwork();
  Result<std::unique_ptr<Fabric>> open(const std::string& name, std::span<std::byte> region,
                                       uint32_t timeout_ms);
  void cut(const std::string& name);      // lost for everybody, as if its process died
  void silence(const std::string& name);  // operations to it never complete, as if it were stopped
  void resume(const std::string& name);   // ends the silence: writes that were given up land now
  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace holdfast::storage
