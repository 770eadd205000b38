// The answer of GET /v1/what-if, for people.
#pragma once

#include <string>

#include "daemon/coordinator/foretold.h"

namespace holdfast::ctl {

// The outcome in a sentence, then short tables: seconds to recover, pace, who runs more, which bytes move.
std::string what_if_table(const daemon::WhatIf& answer);

}  // namespace holdfast::ctl
