// A row of topk_encode: what is scored of it, and its k best scores while they are being found, in one order of ties.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace revelio {
namespace REVELIO_ISA {

// Larger key = better: NaN, then larger values, then lower latents. Unique, so the order of insertion does not matter.
static inline uint64_t key_of(float value, int64_t latent) {
    uint32_t bits = 0xFFFFFFFFu;
    if (value == value) {
        value += 0.0f;  // -0 counts as 0
        memcpy(&bits, &value, 4);
        bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    }
    return static_cast<uint64_t>(bits) << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(latent));
}

static inline float value_of(uint64_t key) {
    uint32_t bits = static_cast<uint32_t>(key >> 32);
    bits = bits == 0xFFFFFFFFu ? 0x7FC00000u : bits >> 31 ? bits & 0x7FFFFFFFu : ~bits;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// x - b_pre of row b.
static inline void centre(const TopkEncode &p, int64_t b, float *out) {
    for (int64_t i = 0; i < p.d; ++i) out[i] = p.x[b * p.d + i] - p.b_pre[i];
}

// Restores a heap with its least element on top, after heap[at] was replaced.
template <typename T>
static inline void sift_down(T *heap, int64_t size, int64_t at) {
    const T moving = heap[at];
    for (int64_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && heap[child + 1] < heap[child]) ++child;
        if (heap[child] >= moving) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

// The k best keys of a row, the worst of them on top.
struct Row {
    uint64_t *heap;
    int64_t size;
    float threshold;  // no score below it can enter
};

static inline void offer(Row &row, int64_t k, uint64_t key) {
    if (row.size < k) {
        row.heap[row.size++] = key;
        if (row.size < k) return;
        for (int64_t at = k / 2; at-- > 0;) sift_down(row.heap, k, at);
    } else {
        if (key <= row.heap[0]) return;
        row.heap[0] = key;
        sift_down(row.heap, k, 0);
    }
    row.threshold = value_of(row.heap[0]);
}

static void write_row(const TopkEncode &p, int64_t b, Row &row) {
    for (int64_t last = p.k - 1; last > 0; --last) {  // heap sort: the worst goes to the end
        const uint64_t worst = row.heap[0];
        row.heap[0] = row.heap[last];
        row.heap[last] = worst;
        sift_down(row.heap, last, 0);
    }
    for (int64_t s = 0; s < p.k; ++s) {
        const float value = value_of(row.heap[s]);
        p.values[b * p.k + s] = p.relu && value < 0 ? 0.0f : value;
        p.indices[b * p.k + s] = 0xFFFFFFFFu - static_cast<uint32_t>(row.heap[s]);
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio
