"""What the scripts of this folder share."""

import errno
import nbd


def connected(socket, name="", **settings):
    """A handle on an export, after these setters were called on it."""
    handle = nbd.NBD()
    handle.set_export_name(name)
    for setter, value in settings.items():
        getattr(handle, setter)(value)
    handle.connect_unix(socket)
    return handle


def unchecked(socket):
    """A handle that leaves it to the server to find what is wrong with a request."""
    return connected(socket, set_strict_mode=0)


def equal(found, expected, what=""):
    if found != expected:
        short = lambda value: repr(value)[:200]
        raise AssertionError(f"{what}: {short(found)} instead of {short(expected)}")


def refused(code, call, *arguments):
    """The call has to fail with this error."""
    try:
        call(*arguments)
    except nbd.Error as error:
        found = errno.errorcode.get(error.errnum, error.errnum)
        equal(found, errno.errorcode[code], f"{call.__name__}{arguments[-3:]} ({error.string})")
    else:
        raise AssertionError(f"{call.__name__}{arguments[-3:]} succeeded")


def extents(handle, length, offset, flags=0):
    """What base:allocation tells of a range, in one answer: offset, length and flags of each extent."""
    found = []

    def take(context, start, entries, error):
        equal(context, nbd.CONTEXT_BASE_ALLOCATION)
        for size, state in zip(entries[::2], entries[1::2]):
            found.append((start, size, state))
            start += size

    handle.block_status(length, offset, take, flags)
    return found


def chunks(handle, length, offset, flags=0):
    """What a structured read is answered with: offset, data and kind of each chunk, in order of the offset."""
    found = []
    take = lambda data, at, kind, error: found.append((at, bytes(data), kind))
    handle.pread_structured(length, offset, take, flags)
    return sorted(found)
