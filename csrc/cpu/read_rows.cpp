// read_rows: rows of a store by positioned reads. Unlike mapped pages, what is read does not stay in the process, a
// file that was cut short is an error instead of a signal, and scattered rows do not pull in their neighbours from
// disk.
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "cpu/kernels.h"

namespace revelio {

namespace {

constexpr int64_t MOST_PIECES = 1024;  // IOV_MAX of Linux
constexpr size_t MOST_FILES = 64;      // open at a time

struct File {
    int64_t shard, first, last;  // entries of the request that lie in it
    int descriptor;

    int64_t offset(const ReadRows &p, int64_t i) const {
        return p.bases[shard] + (p.rows[i] - p.starts[shard]) * p.row_bytes;
    }

    // One past the last entry of the run of neighbours that begins at `from`.
    int64_t run_end(const ReadRows &p, int64_t from) const {
        const int64_t limit = std::min(last, from + MOST_PIECES);
        int64_t to = from + 1;
        while (to < limit && p.rows[to] == p.rows[to - 1] + 1) ++to;
        return to;
    }
};

// Asks for everything before anything is waited for: the disk works on many requests at once.
void announce(const ReadRows &p, const File &file) {
#ifdef POSIX_FADV_WILLNEED
    for (int64_t from = file.first, to; from < file.last; from = to) {
        to = file.run_end(p, from);
        posix_fadvise(file.descriptor, file.offset(p, from), (to - from) * p.row_bytes, POSIX_FADV_WILLNEED);
    }
#endif
}

// Fills the pieces; a read may come back short without being at the end of the file.
int fill(int descriptor, iovec *piece, int64_t count, int64_t offset) {
    while (count > 0) {
        const ssize_t got = preadv(descriptor, piece, static_cast<int>(count), offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno;
        if (got == 0) return FILE_ENDED;
        offset += got;
        size_t left = static_cast<size_t>(got);
        while (count > 0 && left >= piece->iov_len) {
            left -= piece->iov_len;
            ++piece;
            --count;
        }
        if (count > 0) {
            piece->iov_base = static_cast<char *>(piece->iov_base) + left;
            piece->iov_len -= left;
        }
    }
    return 0;
}

int read(const ReadRows &p, const File &file, std::vector<iovec> &pieces) {
    for (int64_t from = file.first, to; from < file.last; from = to) {
        to = file.run_end(p, from);
        pieces.clear();
        for (int64_t i = from; i < to; ++i) {
            pieces.push_back({p.out + p.places[i] * p.row_bytes, static_cast<size_t>(p.row_bytes)});
        }
        if (const int error = fill(file.descriptor, pieces.data(), to - from, file.offset(p, from))) return error;
    }
    return 0;
}

}  // namespace

ReadFailure read_rows(const ReadRows &p, const std::vector<std::string> &paths) {
    std::vector<File> files;
    std::vector<iovec> pieces;
    ReadFailure failure = {-1, 0};
    int64_t next = 0;
    while (next < p.count && failure.error == 0) {
        while (next < p.count && files.size() < MOST_FILES && failure.error == 0) {
            const int64_t shard = std::upper_bound(p.starts, p.starts + paths.size() + 1, p.rows[next]) - p.starts - 1;
            const int64_t last = std::lower_bound(p.rows + next, p.rows + p.count, p.starts[shard + 1]) - p.rows;
            const int descriptor = open(paths[shard].c_str(), O_RDONLY | O_CLOEXEC);
            if (descriptor < 0) {
                failure = {shard, errno};
            } else {
                files.push_back({shard, next, last, descriptor});
                announce(p, files.back());
                next = last;
            }
        }
        for (const File &file : files) {
            if (failure.error == 0) {
                if (const int error = read(p, file, pieces)) failure = {file.shard, error};
            }
            close(file.descriptor);
        }
        files.clear();
    }
    return failure;
}

}  // namespace revelio
