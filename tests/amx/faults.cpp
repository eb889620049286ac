// One AMX instruction that the SDM makes a fault, chosen by the argument: the emulator must end the process.
#include <dlfcn.h>
#include <immintrin.h>
#include <string.h>

namespace {

struct Config {
    unsigned char bytes[64];
    Config() : bytes{1} {
        for (int t = 0; t < 8; ++t) shape(t, 16, 64);
    }
    void shape(int t, int rows, int colsb) {
        bytes[16 + 2 * t] = static_cast<unsigned char>(colsb);
        bytes[48 + t] = static_cast<unsigned char>(rows);
    }
};

// The compiler's load of a configuration names its first 8 bytes only.
void load(const Config &config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

}  // namespace

int main(int, char **arguments) {
    reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "revelio_amx_emulator_for_tests"))();
    const auto asked = [&](const char *fault) { return !strcmp(arguments[1], fault); };
    Config config;
    if (asked("palette")) config.bytes[0] = 2;
    if (asked("reserved")) config.bytes[40] = 1;
    if (asked("large")) config.shape(3, 17, 64);
    if (asked("half")) config.shape(3, 16, 0);
    if (asked("unused")) config.shape(5, 0, 0);
    if (asked("shapes")) config.shape(0, 8, 64);
    if (!asked("none")) load(config);
    _tile_zero(5);
    if (asked("twice")) __asm__ volatile(".byte 0xC4, 0xE2, 0x73, 0x5E, 0xC0");  // tdpbssd tmm0, tmm0, tmm1
    if (asked("unknown")) __asm__ volatile("ud2");
    if (asked("stale")) {
        _tile_release();
        _tile_zero(0);
    }
    _tile_dpbssd(0, 1, 2);
    _tile_release();
    return 0;
}
