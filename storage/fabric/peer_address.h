// What two fabrics tell each other before the first copy: the address that travels as text, and the
// greeting in the connection data, which carries the region's key and bounds as they are now.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "storage/fabric/fabric.h"

namespace holdfast::storage {

// "holdfast-fabric;<protocol>;<release>;<provider>;<host>;<port>;<region id>"
struct PeerAddress {
  std::string provider;
  std::string host;
  uint16_t port = 0;
  uint64_t region_id = 0;  // random for every opening: an old address never reaches a new region
};

FabricAddress format_address(const PeerAddress& address);
Result<PeerAddress> parse_address(const FabricAddress& text);  // kFabricProtocol

// 48 bytes little-endian; 56 is what a verbs connection request has room for.
struct Greeting {
  uint32_t magic = 0;
  uint32_t protocol = 0;
  uint64_t release = 0;    // hash of the release's name
  uint64_t region_id = 0;  // request: the region that is wanted; answer: the one that is served
  uint64_t key = 0;        // request: the region of who asks; answer: as in fi_mr_key
  uint64_t base = 0;       // answer: what remote offset 0 is called in an RMA operation
  uint64_t length = 0;     // answer: of the region in bytes
};
static_assert(sizeof(Greeting) == 48);

Greeting make_request(uint64_t wanted_region, uint64_t own_region);
Greeting make_answer(uint64_t region_id, uint64_t key, uint64_t base, uint64_t length);
// kFabricProtocol: no greeting, or one of another protocol or release.
Result<Greeting> read_greeting(std::span<const std::byte> data);

}  // namespace holdfast::storage
