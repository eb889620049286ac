// Runs a grid on one CPU thread: blocks one after another in random order, a block's threads as fibers that switch only
// where they wait. What a kernel gets wrong shows: a barrier left out (another order, another result), a barrier that
// not all threads reach (an error that says who waits where), shared memory read before it is written (it holds NaN).
//
// With `weak` set, a store to shared memory reaches the other threads only when its thread passes __syncwarp or
// __syncthreads, as CUDA promises no more than that: shuffles, ballots and matches order no memory.
// Not seen: races between blocks, and on global memory between two waits of a warp's lanes.
#include "cuda_runtime.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace revelio {
namespace cuda {
// The kernels' dynamic shared memory, of the size that CUDA gives without asking.
float4 row_memory[49152 / sizeof(float4)];
}  // namespace cuda
}  // namespace revelio

extern "C" uint32_t __start_shim_shared[], __stop_shim_shared[];

#if defined(__x86_64__)
extern "C" void shim_switch(void **save, void *load);
asm(R"(
.text
.globl shim_switch
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");
#else
#error "the host shim switches fibers on x86-64 only"
#endif

namespace shim {
namespace {

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr int WARP = 32;

enum class State { RUNNABLE, BARRIER, WARP, DONE };

struct Fiber {
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    void *context = nullptr;
    State state = State::RUNNABLE;
    Kind kind = Kind::BARRIER;
    unsigned mask = 0;
    int source = 0;
    uint64_t value = 0;
    std::vector<std::pair<uint32_t *, uint32_t>> unseen;  // words of shared memory that only this thread sees yet
};

std::vector<Fiber> fibers;  // kept from launch to launch
std::vector<int> runnable;
std::vector<uint32_t> visible;  // shared memory as all threads see it
const std::function<void()> *body = nullptr;
void *scheduler = nullptr;
int threads = 0, current = 0, waiting = 0, finished = 0;
uint64_t random_state = 1;
bool weak = false, warps_race = false;
std::array<uint64_t, 1024 / WARP> warp_order;

uint64_t draw(uint64_t below) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 16) % below;
}

// Red zones that AddressSanitizer puts between the arrays are written over like the rest.
__attribute__((no_sanitize_address)) void fill_shared() {
    for (uint32_t *word = __start_shim_shared; word < __stop_shim_shared; ++word) *word = ~0u;
    std::memset(revelio::cuda::row_memory, 255, sizeof(revelio::cuda::row_memory));
}

// Shared memory of the launch as words: the static arrays, then what it asked for. Not for use under AddressSanitizer.
struct Words {
    uint32_t *live, *visible;
    size_t count;
};

std::array<Words, 2> shared_words() {
    const size_t arrays = __stop_shim_shared - __start_shim_shared;
    return {
        {{__start_shim_shared, visible.data(), arrays},
         {reinterpret_cast<uint32_t *>(revelio::cuda::row_memory), visible.data() + arrays, visible.size() - arrays}}};
}

void show_shared(const Fiber &fiber) {
    for (const Words &words : shared_words()) std::memcpy(words.live, words.visible, words.count * sizeof(uint32_t));
    for (const auto &store : fiber.unseen) *store.first = store.second;
}

void keep_stores(Fiber &fiber, bool publish) {
    constexpr size_t STRETCH = 64;  // compared at once, since most of it is equal
    fiber.unseen.clear();
    for (const Words &words : shared_words()) {
        for (size_t start = 0; start < words.count; start += STRETCH) {
            const size_t end = std::min(start + STRETCH, words.count);
            if (!std::memcmp(words.live + start, words.visible + start, (end - start) * sizeof(uint32_t))) continue;
            for (size_t i = start; i < end; ++i) {
                if (words.live[i] == words.visible[i]) continue;
                if (publish)
                    words.visible[i] = words.live[i];
                else
                    fiber.unseen.emplace_back(words.live + i, words.live[i]);
            }
        }
    }
}

// A store beyond the dynamic shared memory that the launch asked for.
void check_dynamic(size_t bytes) {
    const auto *memory = reinterpret_cast<const unsigned char *>(revelio::cuda::row_memory);
    for (size_t i = bytes; i < sizeof(revelio::cuda::row_memory); ++i) {
        if (memory[i] != 255) throw std::runtime_error("shim: a store past the block's dynamic shared memory");
    }
}

void wait(State state) {
    fibers[current].state = state;
    shim_switch(&fibers[current].context, scheduler);
}

void entry() {
    (*body)();
    wait(State::DONE);
    abort();  // a finished thread is never resumed
}

void start(Fiber &fiber) {
    // Six registers, then the address that `ret` pops; entry() finds its stack aligned as after a call.
    auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + STACK_BYTES) & ~uintptr_t(15);
    auto *frame = reinterpret_cast<void **>(top) - 8;
    std::fill(frame, frame + 8, nullptr);
    frame[6] = reinterpret_cast<void *>(&entry);
    fiber.context = frame;
    fiber.state = State::RUNNABLE;
    fiber.unseen.clear();
}

void resume(int thread) {
    fibers[thread].state = State::RUNNABLE;
    runnable.push_back(thread);
}

uint64_t result_of(int thread, int first) {
    const Fiber &fiber = fibers[thread];
    uint64_t lanes = 0;
    switch (fiber.kind) {
        case Kind::SHUFFLE:
            if (!(fiber.mask >> fiber.source & 1))
                throw std::runtime_error("shim: a shuffle reads a lane outside its mask");
            return fibers[first + fiber.source].value;
        case Kind::BALLOT:
        case Kind::MATCH:
            for (int l = 0; l < WARP; ++l) {
                if (!(fiber.mask >> l & 1)) continue;
                const uint64_t value = fibers[first + l].value;
                lanes |= uint64_t(fiber.kind == Kind::MATCH ? value == fiber.value : value) << l;
            }
            return lanes;
        default:
            return 0;
    }
}

// Completes the operation that `thread` waits in, when the last lane of its mask has come.
void complete_warp(int thread) {
    const int first = thread / WARP * WARP;
    const Fiber &arrived = fibers[thread];
    std::vector<int> lanes;
    for (int l = 0; l < WARP; ++l) {
        if (!(arrived.mask >> l & 1)) continue;
        if (first + l >= threads)
            throw std::runtime_error("shim: a warp operation names lanes that the block does not have");
        const Fiber &other = fibers[first + l];
        if (other.state != State::WARP || other.kind != arrived.kind || other.mask != arrived.mask) return;
        lanes.push_back(first + l);
    }
    std::vector<uint64_t> results;
    for (int lane : lanes) results.push_back(result_of(lane, first));
    for (size_t i = 0; i < lanes.size(); ++i) {
        fibers[lanes[i]].value = results[i];
        resume(lanes[i]);
    }
}

[[noreturn]] void deadlock(unsigned block) {
    int in_warp = 0;
    for (int t = 0; t < threads; ++t) in_warp += fibers[t].state == State::WARP;
    const std::string text = "shim: deadlock in block " + std::to_string(block) + ": of " + std::to_string(threads) +
                             " threads, " + std::to_string(waiting) + " wait at __syncthreads, " +
                             std::to_string(in_warp) + " at a warp operation that not all lanes of its mask reach, " +
                             std::to_string(finished) + " have left the kernel";
    fibers.clear();  // the stacks of threads that will never end
    throw std::runtime_error(text);
}

// Any runnable thread; for odd seeds one of the runnable warp that comes first in an order drawn for the block, so that
// warps get as far ahead of each other as the barriers allow.
size_t next_thread() {
    size_t chosen = draw(runnable.size());
    for (size_t i = 0; warps_race && i < runnable.size(); ++i) {
        if (warp_order[runnable[i] / WARP] < warp_order[runnable[chosen] / WARP]) chosen = i;
    }
    return chosen;
}

void run_block(unsigned block, size_t dynamic_bytes) {
    blockIdx = dim3(block, 0, 0);
    fill_shared();
    visible.assign(weak ? __stop_shim_shared - __start_shim_shared + dynamic_bytes / sizeof(uint32_t) : 0, ~0u);
    runnable.clear();
    waiting = finished = 0;
    for (uint64_t &order : warp_order) order = draw(1u << 30);
    for (int t = 0; t < threads; ++t) {
        start(fibers[t]);
        runnable.push_back(t);
    }
    while (finished < threads) {
        if (runnable.empty()) deadlock(block);
        std::swap(runnable[next_thread()], runnable.back());
        current = runnable.back();
        runnable.pop_back();
        threadIdx = dim3(current, 0, 0);
        Fiber &fiber = fibers[current];
        if (weak) show_shared(fiber);
        shim_switch(&scheduler, fiber.context);
        const bool orders_memory = fiber.state != State::WARP || fiber.kind == Kind::SYNCWARP;
        if (weak) keep_stores(fiber, orders_memory);
        if (fiber.state == State::DONE) {
            ++finished;
        } else if (fiber.state == State::WARP) {
            complete_warp(current);
        } else if (++waiting == threads) {
            waiting = 0;
            for (int t = 0; t < threads; ++t) resume(t);
        }
    }
    check_dynamic(dynamic_bytes);
}

}  // namespace

int lane() {
    return current % WARP;
}

void barrier() {
    wait(State::BARRIER);
}

uint64_t warp_operation(Kind kind, unsigned mask, uint64_t value, int source) {
    Fiber &fiber = fibers[current];
    if (!(mask >> lane() & 1)) throw std::runtime_error("shim: a lane takes part in a warp operation outside its mask");
    fiber.kind = kind;
    fiber.mask = mask;
    fiber.value = value;
    fiber.source = source;
    wait(State::WARP);
    return fiber.value;
}

cudaError_t run(const cudaLaunchConfig_t &config, const std::function<void()> &thread) {
    const dim3 grid = config.gridDim, block = config.blockDim;
    if (grid.x == 0 || grid.x > 2147483647u || grid.y * grid.z * block.y * block.z != 1 || block.x == 0 ||
        block.x > 1024 || config.dynamicSmemBytes > sizeof(revelio::cuda::row_memory)) {
        return cudaErrorInvalidConfiguration;
    }
    threads = static_cast<int>(block.x);
    if (fibers.size() < block.x) fibers.resize(block.x);
    gridDim = grid;
    blockDim = block;
    body = &thread;
    std::vector<unsigned> blocks(grid.x);
    for (unsigned b = 0; b < grid.x; ++b) blocks[b] = b;
    for (unsigned b = grid.x; b > 1; --b) std::swap(blocks[b - 1], blocks[draw(b)]);
    for (unsigned b : blocks) run_block(b, config.dynamicSmemBytes);
    return cudaSuccess;
}

}  // namespace shim

extern "C" __attribute__((visibility("default"))) void shim_schedule(uint64_t seed, int weak) {
    shim::random_state = seed * 0x9E3779B97F4A7C15ull + 0x2545F4914F6CDD1Dull;
    if (!shim::random_state) shim::random_state = 1;
#if defined(__SANITIZE_ADDRESS__)
    weak = 0;  // copies shared memory whole, red zones and all
#endif
    shim::weak = weak != 0;
    shim::warps_race = seed % 2 == 1;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorInvalidDevice ? "invalid device ordinal" : "invalid configuration argument";
}
