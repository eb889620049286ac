// top_activations_update: one warp per latent. A ballot drops what cannot enter the sorted list of m places; the few
// activations left are put in one after another, the lanes moving the list together.
#include "cuda/launch.cuh"
#include "cuda/vector.cuh"

namespace revelio {
namespace cuda {
namespace {

constexpr int THREADS = 128, WARPS = THREADS / WARP;

__device__ inline bool before(float value, int64_t id, float other, int64_t other_id) {
    return value > other || (value == other && id < other_id);
}

// Where the image is listed already, its place is given up if the new activation is larger; else the last place is.
// Every lane gets the same arguments.
__device__ inline void insert(float *values, int64_t *ids, int64_t m, float value, int64_t id) {
    const int lane = threadIdx.x % WARP;
    int64_t target = 0, freed = m - 1;  // how many places are better; the place that is given up
    for (int64_t start = 0; start < m; start += WARP) {
        const int64_t place = start + lane;
        const bool used = place < m && ids[place] >= 0;
        target += __popc(__ballot_sync(ALL_LANES, used && before(values[place], ids[place], value, id)));
        const unsigned same = __ballot_sync(ALL_LANES, used && ids[place] == id);
        if (same) freed = start + __ffs(static_cast<int>(same)) - 1;
    }
    if (freed < m && ids[freed] == id && !(value > values[freed])) return;
    if (target > freed) return;
    for (int64_t start = freed / WARP * WARP; start >= target / WARP * WARP; start -= WARP) {
        const int64_t place = start + lane;
        const bool moves = place > target && place <= freed;
        const float moved = moves ? values[place - 1] : 0;
        const int64_t moved_id = moves ? ids[place - 1] : 0;
        __syncwarp();  // all have read before any writes
        if (moves) {
            values[place] = moved;
            ids[place] = moved_id;
        }
    }
    if (lane == 0) {
        values[target] = value;
        ids[target] = id;
    }
    __syncwarp();
}

__global__ void __launch_bounds__(THREADS, 8) update(TopActivationsUpdate p) {
    const int lane = threadIdx.x % WARP;
    const int64_t j = blockIdx.x * static_cast<int64_t>(WARPS) + threadIdx.x / WARP;
    if (j >= p.n) return;
    const int64_t begin = p.offsets[j], end = p.offsets[j + 1];
    if (begin == end) return;
    float *values = p.state_values + j * p.m;
    int64_t *ids = p.state_image_ids + j * p.m, count = 0;
    double sum = 0;
    for (int64_t start = begin; start < end; start += WARP) {
        const int64_t e = start + lane;
        const float value = e < end ? p.values[p.rows[e] * p.k + p.slots[e]] : 0.0f;
        const bool active = value > 0;  // NaN is not
        const int64_t id = active ? p.image_ids[p.rows[e]] : -1;
        if (active) sum += value;
        count += __popc(__ballot_sync(ALL_LANES, active));
        if (p.m == 0) continue;
        const bool enters = active && (ids[p.m - 1] < 0 || before(value, id, values[p.m - 1], ids[p.m - 1]));
        for (unsigned left = __ballot_sync(ALL_LANES, enters); left; left &= left - 1) {
            const int source = __ffs(static_cast<int>(left)) - 1;
            insert(values, ids, p.m, __shfl_sync(ALL_LANES, value, source), __shfl_sync(ALL_LANES, id, source));
        }
    }
    for (int step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    if (lane == 0 && count > 0) {
        p.sums[j] += sum;
        p.counts[j] += count;
    }
}

}  // namespace

void top_activations_update(const TopActivationsUpdate &p, const Place &place) {
    const DeviceGuard guard(place.device);
    launch("top_activations_update: update", place, update, ceil_div(p.n, WARPS), THREADS, 0, p);
}

}  // namespace cuda
}  // namespace revelio
