// A fabric over several others ("stripes"), each with connections and a progress thread of its own.
// Providers that copy on the host's processors, as tcp, move a few GB/s on one thread and no more.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "storage/fabric/fabric.h"

namespace holdfast::storage {

inline constexpr uint32_t kMostStripes = 8;  // no more transfers are under way to a peer at once

// How many where the configuration leaves it open (0): one for providers that copy by themselves; with
// tcp one for eight processors, at least one and at most four.
uint32_t stripe_count(uint32_t configured, const std::string& provider, uint32_t processors);

// All serve the same region. Its address names the stripes' addresses, and a channel has one of each
// stripe, as many as both sides have. Reads go to the one with the fewest bytes under way: they bring state
// back while nobody trains. Writes all go over the first: they replicate beside training, which needs the
// processors and the memory's bandwidth more. A channel is lost with the first of its stripes.
std::unique_ptr<Fabric> make_striped(std::vector<std::unique_ptr<Fabric>> stripes);

// `connections` libfabric fabrics (0: stripe_count decides), from options.port on one port each.
// Errors as open_libfabric.
Result<std::unique_ptr<Fabric>> open_striped_libfabric(const FabricOptions& options,
                                                       uint32_t connections,
                                                       std::span<std::byte> region);

}  // namespace holdfast::storage
