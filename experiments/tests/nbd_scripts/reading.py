"""Reads of every length give what the disk holds, or the error that is due; the connection goes on.

Arguments: the server's socket, a file with the disk's content."""

import errno
import random
import sys
import nbd
from expect import chunks, connected, equal, refused, unchecked

socket, content = sys.argv[1], open(sys.argv[2], "rb").read()
size = len(content)
MIB = 1 << 20


def every_length_and_place(handle):
    for length in (1, 511, 512, 513, 65536, MIB + 1, 32 * MIB):
        for offset in (0, 1, 8 * MIB - 1, size - length):
            equal(handle.pread(length, offset), content[offset : offset + length], (length, offset))


def chunks_tile_the_range(handle):
    for length, offset in ((MIB, 8 * MIB - MIB // 2), (32 * MIB, 100), (700, size - 700)):
        for flags in (0, nbd.CMD_FLAG_DF):
            found, at = chunks(handle, length, offset, flags), offset
            for start, data, kind in found:
                equal(start, at)
                equal(data, content[at : at + len(data)])
                assert kind in (nbd.READ_DATA, nbd.READ_HOLE)
                at += len(data)
            equal(at, offset + length)
            assert not flags or len(found) == 1, "a read that must not be fragmented was"


def what_cannot_be_read_is_refused(handle):
    unknown = 1 << 10
    for code, length, offset, flags in (
        (errno.EINVAL, 1, size, 0),
        (errno.EINVAL, 2, size - 1, 0),
        (errno.EINVAL, 512, (1 << 64) - 512, 0),
        (errno.EINVAL, 33 * MIB, size - MIB, 0),
        (errno.EOVERFLOW, 33 * MIB, 0, 0),
        (errno.EOVERFLOW, 33 * MIB, 0, nbd.CMD_FLAG_DF),
        (errno.EINVAL, 512, 0, unknown),
        (errno.EINVAL, 512, 0, nbd.CMD_FLAG_NO_HOLE),
    ):
        refused(code, handle.pread, length, offset, flags)
        equal(handle.pread(512, 512), content[512:1024])
    refused(errno.EINVAL, handle.cache, 2, size - 1)
    refused(errno.EINVAL, handle.block_status, 512, 0, lambda *all: 0)
    equal(handle.pread(512, 0, nbd.CMD_FLAG_FUA), content[:512])


def nothing_is_read_where_nothing_is_asked(handle):
    for offset in (0, 12345, size):
        equal(handle.pread(0, offset), b"")
    equal(handle.cache(0, 0), None)
    equal(handle.pread(512, 0), content[:512])


def many_at_once(handle):
    dice, finished = random.Random(1), []
    asked = []
    for number in range(64):
        length = dice.choice((1, 512, 4096, 100_000, 3 * MIB))
        offset = dice.randrange(size - length)
        buffer = nbd.Buffer(length)
        note = lambda error, number=number: finished.append((number, error.value)) or 1
        handle.aio_pread(buffer, offset, note)
        asked.append((offset, length, buffer))
    while handle.aio_in_flight():
        handle.poll(-1)
    equal(sorted(finished), [(number, 0) for number in range(64)])
    for offset, length, buffer in asked:
        equal(buffer.to_bytearray(), content[offset : offset + length], (offset, length))


for structured in (True, False):
    handle = connected(socket, set_strict_mode=0, set_request_structured_replies=structured)
    every_length_and_place(handle)
    nothing_is_read_where_nothing_is_asked(handle)
    many_at_once(handle)
    handle.shutdown()
handle = unchecked(socket)
chunks_tile_the_range(handle)
what_cannot_be_read_is_refused(handle)
handle.shutdown()
