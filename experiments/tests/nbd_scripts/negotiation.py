"""Exports are listed, told of and chosen, in every way that there is; what does not exist is refused.

Arguments: the server's socket, its export's name, description and size."""

import errno
import sys
import nbd
from expect import connected, equal, refused

socket, name, description, size = *sys.argv[1:4], int(sys.argv[4])


def options(name=""):
    return connected(socket, name, set_opt_mode=True, set_full_info=True)


def exports_are_listed():
    handle, listed = options(), []
    equal(handle.opt_list(lambda *entry: listed.append(entry)), 1, "number of exports")
    equal(listed, [(name, description)])
    handle.opt_abort()
    assert handle.aio_is_closed(), "an aborted negotiation leaves a connection"


def an_export_is_told_of(asked):
    handle = options(asked)
    handle.opt_info()
    equal(handle.get_size(), size)
    equal(handle.get_canonical_export_name(), name)
    equal(handle.get_export_description(), description)
    kinds = (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)
    equal([handle.get_block_size(kind) for kind in kinds], [1, 4096, 32 << 20])
    able = ("flush", "fua", "trim", "zero", "cache", "multi_conn", "df", "fast_zero")
    equal([can for can in able if getattr(handle, "can_" + can)()], list(able[:-1]))
    assert not handle.is_read_only() and not handle.is_rotational()
    handle.opt_go()
    equal(len(handle.pread(512, 0)), 512)
    handle.shutdown()


def an_unknown_export_is_refused_and_another_one_chosen():
    handle = options("nothing")
    refused(errno.ENOENT, handle.opt_info)
    refused(errno.ENOENT, handle.opt_go)
    handle.set_export_name(name)
    handle.opt_go()
    equal(handle.get_size(), size)
    handle.shutdown()


def meta_contexts_are_listed_and_chosen():
    handle = options()
    for queries, expected in (
        ([], ["base:allocation"]),
        (["base:"], ["base:allocation"]),
        (["base:allocation"], ["base:allocation"]),
        (["base:other", "qemu:", "qemu:dirty-bitmap:b"], []),
        (["x:y", "base:allocation"], ["base:allocation"]),
    ):
        handle.clear_meta_contexts()
        for query in queries:
            handle.add_meta_context(query)
        listed = []
        handle.opt_list_meta_context(listed.append)
        equal(listed, expected, queries)
    # The last queries are those that are chosen by.
    handle.opt_go()
    equal([handle.can_meta_context(context) for context in ("base:allocation", "x:y")], [True, False])
    handle.shutdown()


def answers_are_structured_only_if_asked_for():
    simple = connected(socket, set_request_structured_replies=False, set_strict_mode=0)
    assert not simple.get_structured_replies_negotiated() and not simple.can_df()
    structured = connected(socket)
    assert structured.get_structured_replies_negotiated() and structured.can_df()
    equal(simple.pread(1 << 20, 777), structured.pread(1 << 20, 777))
    refused(errno.EINVAL, simple.pread, 2, size - 1)
    equal(simple.pread(1, size - 1), structured.pread(1, size - 1))


def the_oldest_handshakes_work():
    for flags in (0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES):
        for asked in ("", name):
            handle = connected(socket, asked, set_handshake_flags=flags)
            equal(handle.get_size(), size)
            fixed = flags == nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE
            equal(handle.get_structured_replies_negotiated(), fixed)
            equal(len(handle.pread(4096, size - 4096)), 4096)
            handle.shutdown()
    # That way, refusing means hanging up.
    try:
        connected(socket, "nothing", set_handshake_flags=0)
    except nbd.Error:
        return
    raise AssertionError("an unknown export was chosen")


exports_are_listed()
for asked in ("", name):
    an_export_is_told_of(asked)
an_unknown_export_is_refused_and_another_one_chosen()
meta_contexts_are_listed_and_chosen()
answers_are_structured_only_if_asked_for()
the_oldest_handshakes_work()
