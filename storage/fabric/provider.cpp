#include "storage/fabric/provider.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netdb.h>
#include <netinet/in.h>

#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

namespace holdfast::storage {
namespace {

constexpr uint32_t kVersion = FI_VERSION(1, 17);

Info make_hints(const std::string& provider, uint64_t completion) {
  Info hints(fi_allocinfo());
  hints->caps = FI_MSG | FI_RMA | FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE;
  hints->ep_attr->type = FI_EP_MSG;
  hints->addr_format = FI_SOCKADDR;
  hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
  hints->domain_attr->threading = FI_THREAD_DOMAIN;  // everything after opening is one thread's
  hints->tx_attr->op_flags = completion;
  hints->fabric_attr->prov_name = strdup(provider.c_str());
  return hints;
}

// A write is done once its bytes are in the peer's memory. Where a provider cannot say that
// (verbs), the peer's adapter having taken them is the best there is.
Info find_info(const std::string& provider, const FabricOptions& options) {
  for (uint64_t completion : {FI_DELIVERY_COMPLETE, FI_TRANSMIT_COMPLETE}) {
    const Info hints = make_hints(provider, completion);
    fi_info* found = nullptr;
    if (fi_getinfo(kVersion, options.address.c_str(), std::to_string(options.port).c_str(),
                   FI_SOURCE, hints.get(), &found) == 0)
      return Info(found);
  }
  return nullptr;
}

std::string providers_found() {
  fi_info* found = nullptr;
  if (fi_getinfo(kVersion, nullptr, nullptr, 0, nullptr, &found) != 0) return "none";
  const Info owner(found);
  std::set<std::string> names;
  for (const fi_info* info = found; info; info = info->next)
    names.insert(info->fabric_attr->prov_name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// "" for an address that stands for all of this machine's.
std::string sockaddr_host(const sockaddr_storage& address, size_t length) {
  if (address.ss_family == AF_INET6) {
    if (IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr))
      return "";
  } else if (reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr == INADDR_ANY) {
    return "";
  }
  char host[NI_MAXHOST] = "";
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(length), host,
                  sizeof host, nullptr, 0, NI_NUMERICHOST) != 0)
    return "";
  return host;
}

uint16_t sockaddr_port(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6)
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

template <class T, class Open>
Status open_object(Fid<T>& object, const char* what, Open open) {
  T* raw = nullptr;
  const int status = open(&raw);
  if (status == 0) {
    object.reset(raw);
    return {};
  }
  const bool taken = status == -FI_EADDRINUSE;
  return fail(
      fabric_error(taken ? ErrorCode::kAddressInUse : ErrorCode::kFabricUnavailable, what, status));
}

Status listen(Provider& provider) {
  RETURN_IF_ERROR(open_object(provider.listener, "fi_passive_ep", [&](fid_pep** pep) {
    return fi_passive_ep(provider.fabric.get(), provider.info.get(), pep, nullptr);
  }));
  if (int status = fi_pep_bind(provider.listener.get(), &provider.events->fid, 0))
    return fail(fabric_error(ErrorCode::kFabricUnavailable, "fi_pep_bind", status));
  if (int status = fi_listen(provider.listener.get())) {
    const bool taken = status == -FI_EADDRINUSE;
    return fail(fabric_error(taken ? ErrorCode::kAddressInUse : ErrorCode::kFabricUnavailable,
                             "fi_listen", status));
  }
  sockaddr_storage bound{};
  size_t length = sizeof bound;
  if (int status = fi_getname(&provider.listener->fid, &bound, &length))
    return fail(fabric_error(ErrorCode::kFabricUnavailable, "fi_getname", status));
  provider.port = sockaddr_port(bound);
  provider.host = sockaddr_host(bound, length);
  return {};
}

Result<Provider> open_info(Info info, std::span<std::byte> region) {
  Provider provider;
  provider.info = std::move(info);
  provider.name = provider.info->fabric_attr->prov_name;
  RETURN_IF_ERROR(open_object(provider.fabric, "fi_fabric", [&](fid_fabric** fabric) {
    return fi_fabric(provider.info->fabric_attr, fabric, nullptr);
  }));
  fi_eq_attr queue{};
  queue.wait_obj = FI_WAIT_FD;
  RETURN_IF_ERROR(open_object(provider.events, "fi_eq_open", [&](fid_eq** eq) {
    return fi_eq_open(provider.fabric.get(), &queue, eq, nullptr);
  }));
  RETURN_IF_ERROR(open_object(provider.domain, "fi_domain", [&](fid_domain** domain) {
    return fi_domain(provider.fabric.get(), provider.info.get(), domain, nullptr);
  }));
  constexpr uint64_t kAccess = FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE;
  RETURN_IF_ERROR(open_object(provider.region, "fi_mr_reg", [&](fid_mr** mr) {
    return fi_mr_reg(provider.domain.get(), region.data(), region.size(), kAccess, 0, 1, 0, mr,
                     nullptr);
  }));
  const bool virtual_addresses = provider.info->domain_attr->mr_mode & FI_MR_VIRT_ADDR;
  provider.remote_base = virtual_addresses ? reinterpret_cast<uint64_t>(region.data()) : 0;
  RETURN_IF_ERROR(listen(provider));
  return provider;
}

}  // namespace

Error fabric_error(ErrorCode code, const char* what, int64_t status) {
  return {code, fmt::format("{}: {}", what, fi_strerror(static_cast<int>(-status)))};
}

Result<Provider> open_provider(const FabricOptions& options, std::span<std::byte> region) {
  std::vector<std::string> wanted{options.provider};
  if (options.provider == "auto") wanted = {"verbs", "tcp"};
  std::string reason;
  for (const std::string& name : wanted) {
    Info info = find_info(name, options);
    if (!info) continue;
    auto provider = open_info(std::move(info), region);
    if (provider) return provider;
    if (provider.error().code == ErrorCode::kAddressInUse)
      return fail(with_context(std::move(provider).error(),
                               fmt::format("fabric at {}:{}", options.address, options.port)));
    reason += fmt::format("; {}: {}", name, provider.error().message);
  }
  return fail(ErrorCode::kFabricUnavailable,
              fmt::format("no provider for '{}' at {}:{}{}; found: {}", options.provider,
                          options.address, options.port, reason, providers_found()));
}

Result<Info> info_towards(const fi_info& own, const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (int status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found))
    return fail(ErrorCode::kFabricLost, fmt::format("the peer's fabric address {}:{}: {}", host,
                                                    port, gai_strerror(status)));
  Info info(fi_dupinfo(&own));
  // The route decides where we connect from: the listening address may not reach the peer.
  free(info->src_addr);
  info->src_addr = nullptr;
  info->src_addrlen = 0;
  free(info->dest_addr);
  info->dest_addr = malloc(found->ai_addrlen);
  std::memcpy(info->dest_addr, found->ai_addr, found->ai_addrlen);
  info->dest_addrlen = found->ai_addrlen;
  info->addr_format = found->ai_family == AF_INET6 ? FI_SOCKADDR_IN6 : FI_SOCKADDR_IN;
  freeaddrinfo(found);
  return info;
}

Result<int> wait_descriptor(fid& object, const char* what) {
  int descriptor = -1;
  if (int status = fi_control(&object, FI_GETWAIT, &descriptor))
    return fail(fabric_error(ErrorCode::kFabricUnavailable, what, status));
  fcntl(descriptor, F_SETFD, FD_CLOEXEC);
  return descriptor;
}

}  // namespace holdfast::storage
