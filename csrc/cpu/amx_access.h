// Whether this process may use AMX here, which the processor and the kernel must both agree to.
#pragma once

#include <string>

namespace revelio {

// Why not; empty when it may. Asks the kernel for the permission, which then holds for the whole process.
// asked: AMX was asked for by name, and not chosen for being the best.
std::string amx_refusal(bool asked);

// Whether the processor has the instructions, permitted or not.
bool processor_has_amx();

}  // namespace revelio
