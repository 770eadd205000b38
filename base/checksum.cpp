#include "base/checksum.h"

#include <xxhash.h>
#ifdef HOLDFAST_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>  // from here on the names below mean the widest vector unit there is
#endif

#include "base/check.h"

namespace holdfast {

// The value does not depend on the vector unit: arenas and messages go between machines.
uint64_t checksum64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}
uint64_t checksum64(std::string_view text) { return checksum64(std::as_bytes(std::span(text))); }

Checksum::Checksum() : state_(XXH3_createState()) {
  CHECK(state_ != nullptr);
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
}
Checksum::~Checksum() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }
void Checksum::add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), bytes.data(), bytes.size());
}
uint64_t Checksum::value() const {
  return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_));
}

}  // namespace holdfast
