// Whether this process may use AMX here, which the processor and the kernel must both agree to.
#include "cpu/amx_access.h"

#include <cpuid.h>
#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace revelio {
namespace {

constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM and the state component

// The tests' emulator (tests/amx) exports this: it executes the instructions that the processor does not have, and says
// whether it is ready to. Nobody else's library does.
bool emulated() {
    const auto ready = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "revelio_amx_emulator_for_tests"));
    return ready && ready();
}

}  // namespace

bool processor_has_amx() {
    unsigned eax, ebx, ecx, edx;
    constexpr unsigned BF16 = 1u << 22, TILE = 1u << 24, INT8 = 1u << 25, ALL = BF16 | TILE | INT8;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & ALL) == ALL;
}

std::string amx_refusal(bool asked) {
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bf16")) {
        return "this processor does not have it";
    }
    if (!(asked && emulated())) {
        if (!processor_has_amx()) return "this processor does not have it";
        if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA)) {
            return std::string("the kernel does not grant this process the tile registers of AMX (") + strerror(errno) +
                   "); it takes Linux 5.16 or later";
        }
    }
    return "";
}

}  // namespace revelio
