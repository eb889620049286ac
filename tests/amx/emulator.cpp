// Executes the AMX instructions of the shipped binary on a processor without AMX: they raise SIGILL, and the handler
// decodes them where they stand, does what Intel's SDM (volume 2) says they do, and steps over them. What the SDM makes
// a fault ends the process with a sentence. Loaded before the extension (LD_PRELOAD); REVELIO_ISA=amx then finds it.
#include <signal.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>

// Of AddressSanitizer, where that is loaded.
extern "C" __attribute__((weak)) void *__asan_region_is_poisoned(void *begin, size_t size);

namespace {

constexpr int TILES = 8, MOST_ROWS = 16, ROW_BYTES = 64;  // palette 1

struct Tile {
    int rows, colsb;
    alignas(64) unsigned char row[MOST_ROWS][ROW_BYTES];
};

// Of one thread, as the registers are. The model keeps a first use in the handler from allocating.
struct Registers {
    bool configured;
    Tile tile[TILES];
};
__attribute__((tls_model("initial-exec"))) thread_local Registers registers;

// What a processor that sums wrongly would do, for the test that such a one is refused: "int8" or "bfloat16".
bool sums_wrongly(const char *kind) {
    const char *asked = getenv("REVELIO_TEST_AMX_WRONG");
    return asked && !strcmp(asked, kind);
}

std::atomic<uint64_t> int8_products, bf16_products, configured, released;

[[noreturn]] void fault(const char *instruction, const char *why) {
    for (const char *part : {"AMX emulator: ", instruction, ": ", why, "\n"}) {
        if (write(2, part, strlen(part)) < 0) break;
    }
    abort();
}

void require(bool holds, const char *instruction, const char *otherwise) {
    if (!holds) fault(instruction, otherwise);
}

void check_memory(const char *instruction, const unsigned char *at, size_t size) {
    if (__asan_region_is_poisoned && __asan_region_is_poisoned(const_cast<unsigned char *>(at), size)) {
        fault(instruction, "memory that AddressSanitizer has poisoned");
    }
}

Tile &tile(const char *instruction, int number) {
    require(registers.configured, instruction, "#UD, no tile configuration is loaded");
    require(number < TILES, instruction, "#UD, there are 8 tile registers");
    Tile &named = registers.tile[number];
    require(named.rows && named.colsb, instruction, "#UD, this tile register is not configured");
    return named;
}

void load_config(const unsigned char *memory) {
    const char *name = "LDTILECFG";
    check_memory(name, memory, 64);
    memset(&registers, 0, sizeof registers);
    if (memory[0] == 0) return;
    require(memory[0] == 1, name, "#GP, the palette is neither 0 nor 1");
    for (int i = 2; i < 64; ++i) {
        const bool used = (i >= 16 && i < 32) || (i >= 48 && i < 56);
        require(used || memory[i] == 0, name, "#GP, a reserved byte is not zero");
    }
    for (int t = 0; t < TILES; ++t) {
        const int colsb = memory[16 + 2 * t] | memory[17 + 2 * t] << 8, rows = memory[48 + t];
        require(colsb <= ROW_BYTES && rows <= MOST_ROWS, name, "#GP, a tile is larger than 16 rows of 64 bytes");
        require((colsb == 0) == (rows == 0), name, "#GP, a tile has rows or columns but not both");
        registers.tile[t].colsb = colsb;
        registers.tile[t].rows = rows;
    }
    require(memory[1] < MOST_ROWS, name, "#GP, the row to restart from is not one of the 16");
    require(memory[1] == 0, name, "a restart in the middle of a tile is not emulated");
    registers.configured = true;
    ++configured;
}

void load_tile(const char *name, Tile &to, const unsigned char *memory, int64_t stride) {
    memset(to.row, 0, sizeof to.row);
    for (int r = 0; r < to.rows; ++r) {
        check_memory(name, memory + r * stride, to.colsb);
        memcpy(to.row[r], memory + r * stride, to.colsb);
    }
}

void store_tile(const char *name, const Tile &from, unsigned char *memory, int64_t stride) {
    for (int r = 0; r < from.rows; ++r) {
        check_memory(name, memory + r * stride, from.colsb);
        memcpy(memory + r * stride, from.row[r], from.colsb);
    }
}

void multiply_int8(Tile &sums, const Tile &a, const Tile &b) {
    static const bool wrongly = sums_wrongly("int8");
    for (int m = 0; m < sums.rows; ++m) {
        int32_t row[ROW_BYTES / 4];
        memcpy(row, sums.row[m], sizeof row);
        for (int k = 0; k < a.colsb / 4; ++k) {
            const auto *of_a = reinterpret_cast<const int8_t *>(a.row[m]) + 4 * k;
            const auto *of_b = reinterpret_cast<const int8_t *>(b.row[k]);
            for (int n = 0; n < sums.colsb / 4; ++n) {
                uint32_t sum = static_cast<uint32_t>(row[n]);  // wraps around, does not saturate
                for (int i = 0; i < 4; ++i) sum += static_cast<uint32_t>(of_a[i] * of_b[4 * n + i]);
                row[n] = static_cast<int32_t>(sum);
            }
        }
        row[m] += wrongly;
        memset(sums.row[m], 0, ROW_BYTES);
        memcpy(sums.row[m], row, sums.colsb);
    }
}

float widened(const unsigned char *bfloat16) {
    float wide = 0;
    memcpy(reinterpret_cast<unsigned char *>(&wide) + 2, bfloat16, 2);
    return wide;
}

// Even and odd channels are summed apart, each by fused multiply-adds, then added to each other, then to what was
// there: to nearest even, denormals zero on the way in and out, whatever MXCSR says.
void multiply_bf16(Tile &sums, const Tile &a, const Tile &b) {
    static const bool wrongly = sums_wrongly("bfloat16");
    const unsigned settings = _mm_getcsr();
    _mm_setcsr(0x1F80 | 0x8000 | 0x0040);  // no exception, flush to zero, denormals are zero
    for (int m = 0; m < sums.rows; ++m) {
        float even[ROW_BYTES / 4] = {}, odd[ROW_BYTES / 4] = {}, row[ROW_BYTES / 4];
        for (int k = 0; k < a.colsb / 4; ++k) {
            const float a_even = widened(a.row[m] + 4 * k), a_odd = widened(a.row[m] + 4 * k + 2);
            for (int n = 0; n < sums.colsb / 4; ++n) {
                even[n] = __builtin_fmaf(a_even, widened(b.row[k] + 4 * n), even[n]);
                odd[n] = __builtin_fmaf(a_odd, widened(b.row[k] + 4 * n + 2), odd[n]);
            }
        }
        memcpy(row, sums.row[m], sizeof row);
        for (int n = 0; n < sums.colsb / 4; ++n) row[n] += even[n] + odd[n];
        row[m] += wrongly;
        memset(sums.row[m], 0, ROW_BYTES);
        memcpy(sums.row[m], row, sums.colsb);
    }
    _mm_setcsr(settings);
}

void multiply(const char *name, int sums, int a, int b, void (*sum)(Tile &, const Tile &, const Tile &)) {
    Tile &to = tile(name, sums), &of_a = tile(name, a), &of_b = tile(name, b);
    require(sums != a && sums != b && a != b, name, "#UD, a tile register is named twice");
    require(to.colsb % 4 == 0 && of_a.colsb % 4 == 0 && of_b.colsb % 4 == 0, name, "#UD, a row is no whole steps");
    require(to.rows == of_a.rows && to.colsb == of_b.colsb && of_a.colsb / 4 == of_b.rows, name,
            "#UD, the shapes do not fit each other");
    sum(to, of_a, of_b);
}

// x86's numbers of the general registers, as places in a ucontext.
const int GENERAL[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                         REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

struct Operand {
    unsigned char *address;
    int64_t index;  // scaled: the stride of a tile
    bool has_sib;
    int bytes;  // of ModRM, SIB and displacement
};

// The memory that ModRM and what follows it name. These instructions end with the displacement, which RIP counts from.
Operand memory_operand(const unsigned char *modrm, bool X, bool B, const greg_t *general) {
    const int mod = modrm[0] >> 6, rm = modrm[0] & 7;
    Operand operand = {nullptr, 0, rm == 4, 1};
    const unsigned char *rest = modrm + 1;
    int64_t address = 0;
    int displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    bool from_rip = false;
    if (operand.has_sib) {
        const int base = rest[0] & 7, index = (rest[0] >> 3 & 7) | X << 3;
        if (index != 4) operand.index = static_cast<int64_t>(general[GENERAL[index]]) << (rest[0] >> 6);
        if (base == 5 && mod == 0)
            displacement = 4;
        else
            address = general[GENERAL[base | B << 3]];
        ++rest;
    } else if (rm == 5 && mod == 0) {
        displacement = 4;
        from_rip = true;
    } else {
        address = general[GENERAL[rm | B << 3]];
    }
    if (displacement == 1) address += static_cast<int8_t>(rest[0]);
    if (displacement == 4) {
        int32_t wide;
        memcpy(&wide, rest, 4);
        address += wide;
    }
    rest += displacement;
    if (from_rip) address += reinterpret_cast<int64_t>(rest);
    operand.address = reinterpret_cast<unsigned char *>(address);
    operand.bytes = static_cast<int>(rest - modrm);
    return operand;
}

// Length of the AMX instruction at `code` after doing it; 0 if there is none.
int execute(const unsigned char *code, const greg_t *general) {
    // VEX of three bytes, map 0F38, W = 0, 128 bits.
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return 0;
    const bool R = !(code[1] & 0x80), X = !(code[1] & 0x40), B = !(code[1] & 0x20);
    const int vvvv = (~code[2] >> 3) & 15, prefix = code[2] & 3, opcode = code[3];
    enum { NONE, P66, PF3, PF2 };
    const unsigned char *modrm = code + 4;
    const int reg = (modrm[0] >> 3 & 7) | R << 3, rm = (modrm[0] & 7) | B << 3;
    const bool in_memory = modrm[0] >> 6 != 3;
    if (opcode == 0x5E && prefix == PF2 && !in_memory) {
        multiply("TDPBSSD", reg, rm, vvvv, multiply_int8);
        ++int8_products;
        return 5;
    }
    if (opcode == 0x5C && prefix == PF3 && !in_memory) {
        multiply("TDPBF16PS", reg, rm, vvvv, multiply_bf16);
        ++bf16_products;
        return 5;
    }
    if (opcode != 0x49 && opcode != 0x4B) return 0;
    if (opcode == 0x49 && prefix == PF2 && !in_memory && rm == 0) {
        Tile &zeroed = tile("TILEZERO", reg);
        memset(zeroed.row, 0, sizeof zeroed.row);
        return 5;
    }
    if (opcode == 0x49 && prefix == NONE && modrm[0] == 0xC0) {
        released += registers.configured;
        memset(&registers, 0, sizeof registers);
        return 5;
    }
    if (!in_memory) return 0;
    const Operand operand = memory_operand(modrm, X, B, general);
    if (opcode == 0x49 && prefix == NONE && reg == 0) {
        require(vvvv == 0, "LDTILECFG", "#UD, VEX.vvvv is not 1111");
        load_config(operand.address);
    } else if (opcode == 0x4B && (prefix == PF2 || prefix == P66)) {
        const char *name = prefix == PF2 ? "TILELOADD" : "TILELOADDT1";
        require(operand.has_sib && vvvv == 0, name, "#UD, no SIB byte, or VEX.vvvv is not 1111");
        load_tile(name, tile(name, reg), operand.address, operand.index);
    } else if (opcode == 0x4B && prefix == PF3) {
        require(operand.has_sib && vvvv == 0, "TILESTORED", "#UD, no SIB byte, or VEX.vvvv is not 1111");
        store_tile("TILESTORED", tile("TILESTORED", reg), operand.address, operand.index);
    } else {
        return 0;
    }
    return 4 + operand.bytes;
}

void on_illegal_instruction(int, siginfo_t *, void *context) {
    greg_t *general = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    const auto code = [&] { return reinterpret_cast<const unsigned char *>(general[REG_RIP]); };
    int length = execute(code(), general);
    if (!length) fault("SIGILL", "an instruction that is not emulated");
    // Those that follow at once are done in the same go: a signal costs more than most of them.
    for (; length; length = execute(code(), general)) general[REG_RIP] += length;
}

}  // namespace

// The dispatcher of revelio_fast calls this before it would believe that there is AMX.
extern "C" int revelio_amx_emulator_for_tests() {
    struct sigaction action = {};
    action.sa_sigaction = on_illegal_instruction;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    return sigaction(SIGILL, &action, nullptr) == 0;
}

// Products of tiles done so far in int8 and bfloat16, tile configurations loaded and released.
extern "C" void revelio_amx_counts(uint64_t *counts) {
    counts[0] = int8_products;
    counts[1] = bf16_products;
    counts[2] = configured;
    counts[3] = released;
}
