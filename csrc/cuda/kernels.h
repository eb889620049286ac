// The CUDA kernels. What each takes is in params/, with device pointers, and where it runs. Nothing here allocates,
// waits or reads back, so every call can be captured into a graph. Failures to launch throw std::runtime_error with the
// kernel's name and CUDA's message.
#pragma once

#include "params/adam_unit_norm_step.h"
#include "params/invert_code.h"
#include "params/sparse_backward.h"
#include "params/top_activations_update.h"

namespace revelio {
namespace cuda {

#define REVELIO_PLACE(REQUIRED, OPTIONAL)                                                   \
    OPTIONAL(void *, workspace) /* as many bytes as <op>_workspace says, 16-byte aligned */ \
    REQUIRED(int, device)                                                                   \
    REQUIRED(std::uintptr_t, stream) /* cudaStream_t */

REVELIO_PARAMS(Place, REVELIO_PLACE)

int64_t invert_code_workspace(int64_t entries);
int64_t sparse_backward_workspace(int64_t entries, int64_t n, int64_t d);  // and for adam_unit_norm_step

void invert_code(const InvertCode &, const Place &);  // an index outside [0, n) is of no latent, sorted to the end
void sparse_backward(const SparseBackward &, const Place &);
void adam_unit_norm_step(const AdamStep &, const Place &);
void top_activations_update(const TopActivationsUpdate &, const Place &);

}  // namespace cuda
}  // namespace revelio
