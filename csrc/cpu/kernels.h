// The CPU kernels. What each takes is in params/; arrays are dense, strides in elements, and latents were checked to
// lie in [0, n). All but invert_code are compiled once per instruction set into a namespace of that name; dispatch.h
// picks one at load.
#pragma once

#include "params/adam_unit_norm_step.h"
#include "params/invert_code.h"
#include "params/sparse_backward.h"
#include "params/sparse_decode.h"
#include "params/top_activations_update.h"
#include "params/topk_encode.h"

namespace revelio {

#define REVELIO_KERNELS(isa)                                   \
    namespace isa {                                            \
    void topk_encode(const TopkEncode &);                      \
    ScreenCounts topk_few(const TopkEncode &);                 \
    void sparse_decode(const SparseDecode &);                  \
    void sparse_backward(const SparseBackward &);              \
    void adam_unit_norm_step(const AdamStep &);                \
    void top_activations_update(const TopActivationsUpdate &); \
    }

REVELIO_KERNELS(baseline)
#if defined(__x86_64__) || defined(_M_X64)
REVELIO_KERNELS(avx2)
REVELIO_KERNELS(avx512)
namespace avx512 {
// Rows it gives up on go through the other screen, where there is one. Needs AVX512-VNNI as well.
ScreenCounts topk_screen_int8(const TopkEncode &, Screener next);
ScreenCounts topk_screen_bf16(const TopkEncode &);  // these two, AVX512-BF16
void topk_encode_bf16(const TopkEncode &);
ScreenCounts topk_few_bf16(const TopkEncode &);
}  // namespace avx512
namespace amx {
using avx512::topk_encode;
ScreenCounts topk_screen_int8(const TopkEncode &, Screener next);
ScreenCounts topk_screen_bf16(const TopkEncode &);
void topk_encode_bf16(const TopkEncode &);
ScreenCounts topk_few_bf16(const TopkEncode &);
const char *wrong_sums();  // which sums of known products come out wrong; null where none do
}  // namespace amx
#endif

// Throws std::bad_alloc, whose constructor is an inline function: compiled here, AVX-512 code could serve everyone.
[[noreturn]] void out_of_memory();

void invert_code(const InvertCode &);

}  // namespace revelio
