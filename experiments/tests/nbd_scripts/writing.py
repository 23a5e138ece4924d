"""Writes, zeroes and trims on a writable export of 64 MiB, with every flag that belongs to them.

Argument: the server's socket."""

import errno
import random
import sys
import nbd
from expect import chunks, connected, equal, extents, refused, unchecked

socket = sys.argv[1]
KIB, MIB = 1 << 10, 1 << 20
SIZE = 64 * MIB
HOLE = nbd.STATE_HOLE | nbd.STATE_ZERO


def writes_of_every_kind(handle):
    for flags in (0, nbd.CMD_FLAG_FUA):
        for length, offset in ((1, 0), (512, 511), (64 * KIB, 64 * KIB - 1), (32 * MIB, 24 * MIB + 3)):
            before = handle.pread(1, offset + length)
            data = random.Random(length + flags).randbytes(length)
            handle.pwrite(data, offset, flags)
            equal(handle.pread(length, offset), data, (length, offset, flags))
            equal(handle.pread(1, offset + length), before)


def zeroes_of_every_kind(handle):
    for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE):
        for length, offset in ((1, 5 * MIB), (3 * MIB, 5 * MIB - 7), (33 * MIB, 20 * MIB)):
            for at in (offset - 1, offset + length - 1):
                handle.pwrite(b"xx", at)
            handle.zero(length, offset, flags)
            equal(handle.pread(1, offset - 1) + handle.pread(1, offset + length), b"xx")
            for at in range(offset, offset + length, 8 * MIB):
                part = min(8 * MIB, offset + length - at)
                equal(handle.pread(part, at), bytes(part), (length, offset, flags))
        zeroes_are_told_of(handle, 24 * MIB)


def zeroes_are_told_of(handle, start):
    """Of 8 MiB of zeroes from there on: in block status, and in answers unless that would fragment them."""
    equal(extents(handle, 8 * MIB, start), [(start, 8 * MIB, HOLE)])
    equal(extents(handle, 8 * MIB, start, nbd.CMD_FLAG_REQ_ONE), [(start, 8 * MIB, HOLE)])
    # What is longer is answered in pieces, or as data in one.
    whole = MIB // 4
    equal(chunks(handle, whole, start), [(start, bytes(whole), nbd.READ_HOLE)])
    equal(chunks(handle, whole, start, nbd.CMD_FLAG_DF), [(start, bytes(whole), nbd.READ_HOLE)])
    pieces = chunks(handle, MIB, start)
    equal({kind for _, _, kind in pieces}, {nbd.READ_HOLE})
    equal(b"".join(data for _, data, _ in pieces), bytes(MIB))
    handle.pwrite(b"y", start + 100)
    mixed = chunks(handle, whole, start)
    equal([kind for _, _, kind in mixed], [nbd.READ_DATA, nbd.READ_HOLE])
    equal(b"".join(data for _, data, _ in mixed), bytes(100) + b"y" + bytes(whole - 101))
    expected = bytes(100) + b"y" + bytes(MIB - 101)
    equal(chunks(handle, MIB, start, nbd.CMD_FLAG_DF), [(start, expected, nbd.READ_DATA)])
    one = extents(handle, MIB, start, nbd.CMD_FLAG_REQ_ONE)
    equal([(at, state) for at, _, state in one], [(start, 0)])


def trims(handle):
    # What is trimmed may read as anything; its neighbours may not.
    handle.pwrite(b"n" * MIB, 40 * MIB)
    for flags in (0, nbd.CMD_FLAG_FUA):
        handle.trim(MIB // 2, 40 * MIB + 100, flags)
        equal(handle.pread(100, 40 * MIB), b"n" * 100)
        equal(handle.pread(100, 40 * MIB + MIB // 2 + 100), b"n" * 100)
    handle.trim(SIZE, 0)
    handle.pwrite(b"again", 40 * MIB + 200)
    equal(handle.pread(5, 40 * MIB + 200), b"again")


def what_cannot_be_written_is_refused(handle):
    unknown = 1 << 10
    for code, call, *arguments in (
        (errno.ENOSPC, handle.pwrite, b"zz", SIZE - 1),
        (errno.ENOSPC, handle.pwrite, b"z" * 512, (1 << 64) - 512),
        (errno.ENOSPC, handle.zero, 2, SIZE - 1),
        (errno.EINVAL, handle.trim, 2, SIZE - 1),
        (errno.EINVAL, handle.pwrite, b"z", 0, unknown),
        (errno.EINVAL, handle.pwrite, b"z", 0, nbd.CMD_FLAG_DF),
        (errno.EINVAL, handle.zero, 1, 0, unknown),
        (errno.EINVAL, handle.zero, 1, 0, nbd.CMD_FLAG_FAST_ZERO),
        (errno.EINVAL, handle.trim, 1, 0, nbd.CMD_FLAG_NO_HOLE),
        (errno.EINVAL, handle.flush, unknown),
    ):
        before = handle.pread(1, 0), handle.pread(1, SIZE - 1)
        refused(code, call, *arguments)
        equal((handle.pread(1, 0), handle.pread(1, SIZE - 1)), before)


def nothing_is_written_where_nothing_is_asked(handle):
    before = handle.pread(4096, 0)
    for flags in (0, nbd.CMD_FLAG_FUA):
        for offset in (0, 100, SIZE):
            handle.pwrite(b"", offset, flags)
            handle.zero(0, offset, flags)
            handle.trim(0, offset, flags)
    equal(handle.pread(4096, 0), before)


def too_long_a_write_costs_the_connection():
    handle = unchecked(socket)
    try:
        handle.pwrite(bytes(33 * MIB), 0)
    except nbd.Error:
        assert handle.aio_is_dead() or handle.aio_is_closed()
        return
    raise AssertionError("a write of 33 MiB was taken")


def many_at_once(handle):
    dice = random.Random(2)
    data = [dice.randbytes(dice.choice((512, 3000, 65536, 2 * MIB // 3))) for _ in range(64)]
    finished, sent = [], []
    for number in dice.sample(range(64), 64):
        note = lambda error, number=number: finished.append((number, error.value)) or 1
        buffer = nbd.Buffer.from_bytearray(bytearray(data[number]))
        sent.append(buffer)
        handle.aio_pwrite(buffer, number * MIB + number, note)
    while handle.aio_in_flight():
        handle.poll(-1)
    equal(sorted(finished), [(number, 0) for number in range(64)])
    for number, expected in enumerate(data):
        equal(handle.pread(len(expected), number * MIB + number), expected, number)


handle = connected(socket, set_strict_mode=0, add_meta_context=nbd.CONTEXT_BASE_ALLOCATION)
writes_of_every_kind(handle)
zeroes_of_every_kind(handle)
trims(handle)
what_cannot_be_written_is_refused(handle)
nothing_is_written_where_nothing_is_asked(handle)
many_at_once(handle)
too_long_a_write_costs_the_connection()
# Nobody else is harmed.
handle.flush()
handle.shutdown()
