// read_rows: rows of a store by positioned reads. Unlike mapped pages, what is read does not stay in the process, a
// file that was cut short is an error instead of a signal, and scattered rows do not pull in their neighbours from
// disk.
#include "store/read_rows.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace revelio {

namespace {

constexpr int64_t MOST_PIECES = 1024;  // IOV_MAX of Linux
constexpr size_t MOST_FILES = 64;      // open at a time

// Neighbours in one file: entries first .. last of the request.
struct Run {
    int64_t shard, first, last, offset;
    int descriptor;

    int64_t bytes(const ReadRows &p) const { return (last - first) * p.row_bytes; }
};

// Where the rows of a run go.
void pieces_of(const ReadRows &p, const Run &run, std::vector<iovec> &pieces) {
    pieces.clear();
    for (int64_t i = run.first; i < run.last; ++i) {
        pieces.push_back({p.out + p.places[i] * p.row_bytes, static_cast<size_t>(p.row_bytes)});
    }
}

// Takes a run that lies in the page cache; of any other, asks the disk for it and does not wait.
bool taken_or_announced(const ReadRows &p, const Run &run, std::vector<iovec> &pieces) {
#ifdef RWF_NOWAIT
    pieces_of(p, run, pieces);
    if (preadv2(run.descriptor, pieces.data(), static_cast<int>(pieces.size()), run.offset, RWF_NOWAIT) ==
        run.bytes(p)) {
        return true;
    }
#endif
#ifdef POSIX_FADV_WILLNEED
    posix_fadvise(run.descriptor, run.offset, run.bytes(p), POSIX_FADV_WILLNEED);
#endif
    return false;
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

}  // namespace

ReadFailure read_rows(const ReadRows &p, const std::vector<std::string> &paths) {
    std::vector<int> files;
    std::vector<Run> missed;  // the disk works on all of them at once, where one read after another would wait for each
    std::vector<iovec> pieces;
    ReadFailure failure = {-1, 0};
    for (int64_t next = 0; next < p.count && failure.error == 0;) {
        while (next < p.count && files.size() < MOST_FILES) {
            const int64_t shard = std::upper_bound(p.starts, p.starts + paths.size() + 1, p.rows[next]) - p.starts - 1;
            const int descriptor = open(paths[shard].c_str(), O_RDONLY | O_CLOEXEC);
            if (descriptor < 0) {
                failure = {shard, errno};
                break;
            }
            files.push_back(descriptor);
            while (next < p.count && p.rows[next] < p.starts[shard + 1]) {
                const int64_t first = next++, limit = std::min(p.count, first + MOST_PIECES);
                while (next < limit && p.rows[next] < p.starts[shard + 1] && p.rows[next] == p.rows[next - 1] + 1)
                    ++next;
                const int64_t offset = p.bases[shard] + (p.rows[first] - p.starts[shard]) * p.row_bytes;
                const Run run = {shard, first, next, offset, descriptor};
                if (!taken_or_announced(p, run, pieces)) missed.push_back(run);
            }
        }
        for (const Run &run : missed) {
            if (failure.error != 0) break;
            pieces_of(p, run, pieces);
            const int error = fill(run.descriptor, pieces.data(), run.last - run.first, run.offset);
            if (error != 0) failure = {run.shard, error};
        }
        for (const int descriptor : files) close(descriptor);
        files.clear();
        missed.clear();
    }
    return failure;
}

}  // namespace revelio
