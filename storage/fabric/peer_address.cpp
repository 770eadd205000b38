#include "storage/fabric/peer_address.h"

#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cstring>
#include <string_view>
#include <vector>

namespace holdfast::storage {
namespace {

static_assert(std::endian::native == std::endian::little, "the greeting is sent as it lies here");

constexpr uint32_t kMagic = 0x48464642;  // "HFFB"
constexpr uint32_t kProtocol = 2;
constexpr std::string_view kPrefix = "holdfast-fabric";

// FNV-1a: the greeting has room for 8 bytes of the release's name.
constexpr uint64_t name_hash(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  for (size_t end; (end = text.find(';')) != text.npos; text.remove_prefix(end + 1))
    parts.push_back(text.substr(0, end));
  parts.push_back(text);
  return parts;
}

template <class T>
bool parse_number(std::string_view text, T& value, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

FabricAddress format_address(const PeerAddress& address) {
  return fmt::format("{};{};{};{};{};{};{:x}", kPrefix, kProtocol, HOLDFAST_RELEASE,
                     address.provider, address.host, address.port, address.region_id);
}

Result<PeerAddress> parse_address(const FabricAddress& text) {
  const auto parts = split(text);
  if (parts.size() < 3 || parts[0] != kPrefix)
    return fail(ErrorCode::kFabricProtocol, fmt::format("'{}' is no fabric address", text));
  if (parts[1] != std::to_string(kProtocol) || parts[2] != HOLDFAST_RELEASE)
    return fail(ErrorCode::kFabricProtocol,
                fmt::format("the fabric address '{}' is of protocol {}, release {}; ours is {}, {}",
                            text, parts[1], parts[2], kProtocol, HOLDFAST_RELEASE));
  PeerAddress address;
  if (parts.size() != 7 || !parse_number(parts[5], address.port) ||
      !parse_number(parts[6], address.region_id, 16))
    return fail(ErrorCode::kFabricProtocol, fmt::format("'{}' is no fabric address", text));
  address.provider = parts[3];
  address.host = parts[4];
  return address;
}

Greeting make_request(uint64_t wanted_region, uint64_t own_region) {
  return {kMagic, kProtocol, name_hash(HOLDFAST_RELEASE), wanted_region, own_region, 0, 0};
}

Greeting make_answer(uint64_t region_id, uint64_t key, uint64_t base, uint64_t length) {
  return {kMagic, kProtocol, name_hash(HOLDFAST_RELEASE), region_id, key, base, length};
}

Result<Greeting> read_greeting(std::span<const std::byte> data) {
  // A provider may pad the connection data.
  if (data.size() < sizeof(Greeting))
    return fail(ErrorCode::kFabricProtocol,
                fmt::format("the peer sent {} bytes of connection data, not {}", data.size(),
                            sizeof(Greeting)));
  Greeting greeting;
  std::memcpy(&greeting, data.data(), sizeof greeting);
  if (greeting.magic != kMagic || greeting.protocol != kProtocol ||
      greeting.release != name_hash(HOLDFAST_RELEASE))
    return fail(ErrorCode::kFabricProtocol, "the peer speaks another protocol or release");
  return greeting;
}

}  // namespace holdfast::storage
