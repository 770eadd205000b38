// The communicator between processes: Gloo's TCP transport. Connections are made pair by pair from
// addresses that travel with the view, so no rendezvous store can hang; data goes through unbound
// buffers, whose waits can be aborted.
#pragma once

#include <memory>
#include <string>

#include "train/comm/communicator.h"

namespace holdfast::train {

// `listen_address`: host name or IP of this machine as its peers reach it. Ignores SIGPIPE for the
// whole process: Gloo writes to sockets whose peer may be gone. kCommSetup.
Result<std::unique_ptr<CommunicatorFactory>> make_gloo_factory(const std::string& listen_address);

}  // namespace holdfast::train
