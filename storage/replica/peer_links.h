// Channels to peers: connected when first needed, with a bounded number of bytes under way, and
// with every answer brought to the event loop.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "base/ids.h"
#include "base/result.h"
#include "storage/fabric/fabric.h"
#include "storage/replica/executor.h"

namespace holdfast::storage {

struct Transfer {
  enum class Kind : uint8_t { kWrite, kRead };
  Kind kind = Kind::kWrite;
  uint64_t local_offset = 0;
  uint64_t remote_offset = 0;
  uint64_t length = 0;
};

class PeerLinks {
 public:
  // Fabric and executor outlive this and whatever the executor still runs.
  PeerLinks(Fabric& fabric, Executor& executor);
  ~PeerLinks();  // closes every link; no answer comes any more

  // Moves the bytes, in pieces. `done` is called once, from the event loop, when all pieces are
  // through or after the first failure; other pieces may then still be under way until close.
  // Returns the number of the link that was used.
  uint64_t start(const NodeId& peer, const FabricAddress& address, const Transfer& transfer,
                 std::function<void(Status)> done);

  // When these return nothing is under way any more; what was ends with kFabricLost, later. The
  // next start connects anew. A link that has been replaced already is left alone.
  void close(const NodeId& peer, uint64_t number);
  void close_all();

 private:
  struct Link;
  static void connected(const std::shared_ptr<Link>& link);
  static void pump(const std::shared_ptr<Link>& link);
  static void piece_done(const std::shared_ptr<Link>& link, const Status& status);
  static void fail_waiting(Link& link, const Error& error);
  std::shared_ptr<Link> connect(const FabricAddress& address);

  Fabric& fabric_;
  Executor& executor_;
  std::map<NodeId, std::shared_ptr<Link>> links_;
  uint64_t newest_ = 0;
};

}  // namespace holdfast::storage
