"""Prints what base:allocation tells of the whole disk, as JSON: offset, length and flags of each extent. Ranges of
every size are told of alike. Nothing is read, which would fill a cache.

Argument: the server's socket."""

import json
import random
import sys
import nbd
from expect import connected, equal, extents

handle = connected(sys.argv[1], add_meta_context=nbd.CONTEXT_BASE_ALLOCATION)
assert handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
size = handle.get_size()


def told(start, end, step=None, flags=0):
    """The extents of a range, asked for as often as it takes, at most `step` bytes at a time; neighbours joined."""
    found, at = [], start
    while at < end:
        answer = extents(handle, min(step or end, end - at), at, flags)
        assert answer and (len(answer) == 1 or not flags & nbd.CMD_FLAG_REQ_ONE)
        for begin, length, state in answer:
            equal(begin, at)
            at += length
            if found and found[-1][2] == state:
                found[-1][1] += length
            else:
                found.append([begin, length, state])
    equal(at, end)
    return found


def within(whole, start, end):
    cut = [(max(at, start), min(at + length, end), state) for at, length, state in whole]
    return [[at, stop - at, state] for at, stop, state in cut if at < stop]


whole = told(0, size)
equal(told(0, size, step=(1 << 20) + 13), whole)
equal(told(0, size, flags=nbd.CMD_FLAG_REQ_ONE), whole)
dice = random.Random(3)
for _ in range(200):
    start, end = sorted(dice.sample(range(size + 1), 2))
    equal(told(start, end), within(whole, start, end), (start, end))
for _, _, state in whole:
    assert state in (0, nbd.STATE_HOLE | nbd.STATE_ZERO), state
print(json.dumps(whole))
handle.shutdown()
