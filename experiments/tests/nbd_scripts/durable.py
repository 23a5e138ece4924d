"""Writes of which each is durable when its script ends: with FUA, or flushed by another connection.

Argument: the server's socket."""

import sys
import nbd
from expect import connected, equal

MIB = 1 << 20
one, other, reader = (connected(sys.argv[1]) for _ in range(3))
assert one.can_multi_conn() and one.can_fua()
one.pwrite(b"\x01" * 65536, 1 * MIB)
one.zero(MIB, 2 * MIB)
other.flush()
one.pwrite(b"\x03" * 700, 3 * MIB + 100, nbd.CMD_FLAG_FUA)
other.zero(MIB, 4 * MIB, nbd.CMD_FLAG_FUA)
# What one has been told is done, all see.
equal(reader.pread(65536, 1 * MIB), b"\x01" * 65536)
equal(reader.pread(700, 3 * MIB + 100), b"\x03" * 700)
equal(reader.pread(MIB, 4 * MIB), bytes(MIB))
