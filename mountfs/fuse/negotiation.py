"""What the kernel and this mount agree on in INIT, beyond what libfuse2 can say. Pure: bytes in, bytes out.

libfuse2 stops at protocol 7.19 of 2012: 128 KiB a write, no flags of rename, one request after the other in a folder.
The layouts of the messages that it decodes are the same up to 7.38; what later protocols changed comes with flags that
are not taken here (extended setxattr, groups and security contexts behind a create), or in messages of their own, which
`raw_requests` answers. So libfuse2 makes its answer, and the kernel gets it with a later minor and more flags.

Each flag that is taken is one whose meaning the file system keeps:

* ASYNC_DIO, PARALLEL_DIROPS: requests of one file or folder may run at once; every call here is safe for that.
* CACHE_SYMLINKS: the target of a symlink never changes, and an inode that is another node now is told.
* HANDLE_KILLPRIV_V2: who writes, truncates or gives away a file takes its set-user-id away in the file system. Without
  it the kernel asks for `security.capability` before each write: half of all requests of a program that writes in
  small pieces.
* MAX_PAGES: requests of up to MAX_WRITE_BYTES.

Left out on purpose: WRITEBACK_CACHE (what write(2) took would be in no journal), AUTO_INVAL_DATA (invalidation is exact
here), POSIX_ACL, and everything for DAX, passthrough and io_uring. READDIRPLUS was measured on 30 folders of 100 files,
nothing cached: `ls -lR` 0.23 s without and 0.14 s with it, but `ls -R` and `find` 0.02 s without and 0.07 to 0.09 s
with it: it looks up what nobody asked for.
"""

from __future__ import annotations

import mmap
import struct

MAX_WRITE_BYTES = 1 << 20
PLAIN_WRITE_BYTES = 128 << 10
"""What kernels before 4.20 take."""
RECEIVE_BYTES = MAX_WRITE_BYTES + 4096
"""One request: a write and a page for the headers, as the kernel wants it."""

ASYNC_DIO, PARALLEL_DIROPS, MAX_PAGES, CACHE_SYMLINKS, HANDLE_KILLPRIV_V2 = 1 << 15, 1 << 18, 1 << 22, 1 << 23, 1 << 28
TAKEN = ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES | CACHE_SYMLINKS | HANDLE_KILLPRIV_V2
MINOR = 38
"""The newest protocol whose layouts were compared (Linux 6.2)."""
MINOR_MIN = 23
"""From here on the answer is the long one, and rename has flags (Linux 3.15)."""

REQUEST_HEADER_BYTES = 40
_ASKED = struct.Struct("=IIII")
"""struct fuse_init_in as far as all have it: major, minor, max_readahead, flags."""
_ANSWER_HEADER = struct.Struct("=IiQ")
"""struct fuse_out_header: length, negative errno, unique."""
_ANSWER = struct.Struct("=IIIIHHI")
"""struct fuse_init_out of 7.19: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write."""
_LATER = struct.Struct("=IHHI28x")
"""What 7.23 to 7.36 appended: time_gran in ns, max_pages, map_alignment, flags2, and room."""


def agreed(request: bytes | memoryview, answer: bytes) -> bytes:
    """The answer to the kernel's INIT `request`, made from the library's `answer`, header included. libfuse3 gives the
    long form and knows most of it: it gets only the flags."""
    whole = _ANSWER_HEADER.size + _ANSWER.size
    if len(answer) < whole or len(request) < REQUEST_HEADER_BYTES + _ASKED.size:
        return answer  # an error, or a protocol before 7.5
    _, error, unique = _ANSWER_HEADER.unpack_from(answer)
    major, minor, readahead, flags, background, congestion, write = _ANSWER.unpack_from(answer, _ANSWER_HEADER.size)
    asked_major, asked_minor, _, offered = _ASKED.unpack_from(request, REQUEST_HEADER_BYTES)
    if error or asked_major != major:
        return answer
    later = answer[whole:]
    if later:
        flags |= offered & TAKEN & ~MAX_PAGES
    elif asked_minor >= MINOR_MIN:
        minor = min(asked_minor, MINOR)
        flags |= offered & TAKEN
        pages = MAX_WRITE_BYTES // mmap.PAGESIZE if flags & MAX_PAGES else 0
        later = _LATER.pack(1, pages, 0, 0)
    write = min(write, MAX_WRITE_BYTES if flags & MAX_PAGES else PLAIN_WRITE_BYTES)
    head = _ANSWER_HEADER.pack(whole + len(later), 0, unique)
    return head + _ANSWER.pack(major, minor, readahead, flags, background, congestion, write) + later
