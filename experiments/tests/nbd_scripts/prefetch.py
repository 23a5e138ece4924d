"""Prefetches a range and reads nothing of it.

Arguments: the server's socket, offset and length of the range."""

import sys
from expect import connected

socket, offset, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
handle = connected(socket)
assert handle.can_cache()
handle.cache(length, offset)
handle.shutdown()
