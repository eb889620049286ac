// What each CUDA kernel takes: the CPU kernels' structs (cpu/kernels.h), where to run, and workspaces from the caller.
// Pointers are device pointers, strides are in elements. Nothing here allocates, waits or reads back, so every call can
// be captured into a graph. Failures to launch throw std::runtime_error with the kernel's name and CUDA's message.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace revelio {
namespace cuda {

struct Place {
    int device;
    std::uintptr_t stream;  // cudaStream_t
};

struct InvertCode {
    const int64_t *indices;           // [B, k]; an entry outside [0, n) belongs to no latent and is sorted to the end
    int64_t *offsets, *rows, *slots;  // [n + 1], [B k], [B k]
    void *workspace;                  // invert_code_workspace(B k) bytes, 16-byte aligned
    int64_t B, k, n;
};

// The encoder's rows in bfloat16, with the norms of each row and of what rounding took off it; all null or none.
struct EncoderShadow {
    uint16_t *weights;         // [n, d]
    float *norms, *residuals;  // [n]
};

int64_t invert_code_workspace(int64_t entries);
int64_t sparse_backward_workspace(int64_t entries, int64_t n, int64_t d);

void invert_code(const InvertCode &, const Place &);
void sparse_backward(const SparseBackward &, void *workspace, const Place &);
void adam_unit_norm_step(const AdamStep &, const EncoderShadow &, void *workspace, const Place &);
void top_activations_update(const TopActivationsUpdate &, const Place &);

}  // namespace cuda
}  // namespace revelio
