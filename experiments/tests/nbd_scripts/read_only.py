"""A read-only export takes no writes, says so, and goes on.

Argument: the server's socket."""

import errno
import sys
from expect import connected, equal, refused

handle = connected(sys.argv[1], set_strict_mode=0)
assert handle.is_read_only()
equal([handle.can_trim(), handle.can_zero(), handle.can_multi_conn()], [False, False, True])
before = handle.pread(4096, 0)
for length in (0, 1, 4096):
    refused(errno.EPERM, handle.pwrite, b"x" * length, 0)
    refused(errno.EPERM, handle.zero, length, 0)
    refused(errno.EPERM, handle.trim, length, 0)
refused(errno.EPERM, handle.pwrite, b"x", handle.get_size())
handle.flush()
equal(handle.pread(4096, 0), before)
handle.shutdown()
