#include "storage/replica/peer_links.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

namespace holdfast::storage {
namespace {

// A piece has a deadline of its own, so it must be small enough for a slow network; a few under way
// at once keep the network busy.
constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
constexpr uint32_t kPiecesUnderWay = 8;

// One transfer: answers once, when its last piece is through or at the first failure.
struct Whole {
  uint64_t pieces_left = 0;
  std::function<void(Status)> done;

  void answer(const Status& status) {
    if (auto call = std::exchange(done, nullptr)) call(status);
  }
};

struct Piece {
  Transfer transfer;
  std::shared_ptr<Whole> whole;
};

}  // namespace

// Lives as long as an answer may still come.
struct PeerLinks::Link {
  Executor& executor;
  FabricAddress address;
  uint64_t number = 0;
  Result<std::unique_ptr<Channel>> channel = nullptr;  // null: connecting
  bool closed = false;
  uint32_t under_way = 0;
  std::deque<Piece> waiting;
};

PeerLinks::PeerLinks(Fabric& fabric, Executor& executor) : fabric_(fabric), executor_(executor) {}

PeerLinks::~PeerLinks() { close_all(); }

std::shared_ptr<PeerLinks::Link> PeerLinks::connect(const FabricAddress& address) {
  auto link = std::make_shared<Link>(Link{executor_, address, ++newest_, nullptr, false, 0, {}});
  auto made = std::make_shared<Result<std::unique_ptr<Channel>>>();
  executor_.aside([made, address, &fabric = fabric_] { *made = fabric.connect(address); },
                  [made, link] {
                    link->channel = std::move(*made);
                    connected(link);
                  });
  return link;
}

void PeerLinks::connected(const std::shared_ptr<Link>& link) {
  if (link->closed) {
    link->channel = nullptr;
  } else if (!link->channel) {
    fail_waiting(*link, link->channel.error());
  } else {
    pump(link);
  }
}

uint64_t PeerLinks::start(const NodeId& peer, const FabricAddress& address,
                          const Transfer& transfer, std::function<void(Status)> done) {
  if (const auto it = links_.find(peer); it != links_.end()) {
    const Link& known = *it->second;
    const bool broken = !known.channel || (*known.channel && (*known.channel)->lost());
    if (broken || known.address != address) close(peer, known.number);
  }
  std::shared_ptr<Link>& link = links_[peer];
  if (!link) link = connect(address);

  auto whole = std::make_shared<Whole>(Whole{0, std::move(done)});
  for (uint64_t at = 0; at < transfer.length; at += kPieceBytes) {
    Transfer piece = transfer;
    piece.local_offset += at;
    piece.remote_offset += at;
    piece.length = std::min(kPieceBytes, transfer.length - at);
    ++whole->pieces_left;
    link->waiting.push_back({piece, whole});
  }
  if (whole->pieces_left == 0) {
    executor_.post([whole] { whole->answer({}); });
  } else {
    pump(link);
  }
  return link->number;
}

void PeerLinks::pump(const std::shared_ptr<Link>& link) {
  while (!link->closed && link->channel && *link->channel && !link->waiting.empty() &&
         link->under_way < kPiecesUnderWay) {
    const Piece piece = std::move(link->waiting.front());
    link->waiting.pop_front();
    ++link->under_way;
    FabricDone done = [link, whole = piece.whole](Status status) {
      link->executor.post([link, whole, status = std::move(status)] {
        if (!status) {
          whole->answer(status);
        } else if (--whole->pieces_left == 0) {
          whole->answer({});
        }
        piece_done(link, status);
      });
    };
    Channel& channel = **link->channel;
    const Transfer& t = piece.transfer;
    switch (t.kind) {
      case Transfer::Kind::kWrite:
        channel.write(t.local_offset, t.remote_offset, t.length, std::move(done));
        break;
      case Transfer::Kind::kRead:
        channel.read(t.local_offset, t.remote_offset, t.length, std::move(done));
        break;
    }
  }
}

void PeerLinks::piece_done(const std::shared_ptr<Link>& link, const Status& status) {
  --link->under_way;
  if (!status) fail_waiting(*link, status.error());
  pump(link);
}

// Answers come later, so that nobody is called from inside his own call.
void PeerLinks::fail_waiting(Link& link, const Error& error) {
  for (Piece& piece : std::exchange(link.waiting, {}))
    link.executor.post([whole = piece.whole, error] { whole->answer(fail(error)); });
}

void PeerLinks::close(const NodeId& peer, uint64_t number) {
  const auto it = links_.find(peer);
  if (it == links_.end() || it->second->number != number) return;
  const std::shared_ptr<Link> link = std::move(it->second);
  links_.erase(it);
  link->closed = true;
  if (link->channel && *link->channel) (*link->channel)->close();
  link->channel = nullptr;  // here, not wherever the last answer is forgotten
  fail_waiting(*link, {ErrorCode::kFabricLost, "the channel to " + link->address + " was closed"});
}

void PeerLinks::close_all() {
  while (!links_.empty()) {
    const auto& [peer, link] = *links_.begin();
    close(NodeId(peer), link->number);
  }
}

}  // namespace holdfast::storage
