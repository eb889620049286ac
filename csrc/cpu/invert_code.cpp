// invert_code: a stable counting sort of the entries by latent. One thread: 131,072 entries take about a millisecond.
#include <vector>

#include "cpu/kernels.h"

namespace revelio {

void invert_code(const InvertCode &p) {
    const auto [indices, offsets, rows, slots, B, k, n] = p;
    for (int64_t j = 0; j <= n; ++j) offsets[j] = 0;
    for (int64_t e = 0; e < B * k; ++e) ++offsets[indices[e] + 1];
    for (int64_t j = 0; j < n; ++j) offsets[j + 1] += offsets[j];
    std::vector<int64_t> next(offsets, offsets + n);
    for (int64_t e = 0, row = 0; row < B; ++row) {
        for (int64_t slot = 0; slot < k; ++slot, ++e) {
            const int64_t place = next[indices[e]]++;
            rows[place] = row;
            slots[place] = slot;
        }
    }
}

}  // namespace revelio
