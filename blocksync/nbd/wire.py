"""Numbers and structs of the protocol, all big-endian; names as in proto.md without their ``NBD_``."""

from __future__ import annotations

import enum
import struct

MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OLD_STYLE_MAGIC = 0x00420281861253
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

GREETING = struct.Struct(">QQH")
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
SIMPLE_REPLY = struct.Struct(">IIQ")
STRUCTURED_REST = struct.Struct(">I")
"""A structured reply's header is as long as a simple one's and this."""
STRUCTURED_HEAD = struct.Struct(">IHHQ")
INFO_EXPORT_BODY = struct.Struct(">HQH")
INFO_BLOCK_SIZE_BODY = struct.Struct(">HIII")
EXTENT = struct.Struct(">II")

assert (GREETING.size, OPTION.size, OPTION_REPLY.size) == (18, 16, 20)
assert (REQUEST.size, SIMPLE_REPLY.size, STRUCTURED_HEAD.size) == (28, 16, 16)

FIXED_NEWSTYLE = 1
NO_ZEROES = 2


class Option(enum.IntEnum):
    ABORT = 2
    STARTTLS = 5
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


REP_ACK = 1
REP_INFO = 3
REP_META_CONTEXT = 4
REP_ERROR = 1 << 31
REP_NAMES = {
    REP_ERROR + 1: "not supported",
    REP_ERROR + 2: "forbidden by the server's policy",
    REP_ERROR + 3: "invalid request",
    REP_ERROR + 4: "not supported on the server's platform",
    REP_ERROR + 5: "TLS required",
    REP_ERROR + 6: "no such export",
    REP_ERROR + 7: "the server is shutting down",
    REP_ERROR + 8: "block sizes must be negotiated",
    REP_ERROR + 9: "request too big",
}
REP_TLS_REQUIRED = REP_ERROR + 5
REP_UNKNOWN = REP_ERROR + 6

INFO_EXPORT = 0
INFO_BLOCK_SIZE = 3

HAS_FLAGS = 1
READ_ONLY = 2
SEND_FLUSH = 4
SEND_FUA = 8
SEND_WRITE_ZEROES = 64
CAN_MULTI_CONN = 256


class Command(enum.IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


CMD_FUA = 1

REPLY_DONE = 1
CHUNK_NONE = 0
CHUNK_DATA = 1
CHUNK_HOLE = 2
CHUNK_STATUS = 5
CHUNK_ERROR = 0x8001
CHUNK_ERROR_OFFSET = 0x8002
CHUNK_ERROR_BIT = 0x8000

ALLOCATION = "base:allocation"
STATE_HOLE = 1
STATE_ZERO = 2
BITMAP_PREFIX = "qemu:dirty-bitmap:"
STATE_DIRTY = 1

# The protocol's errors have the numbers that Linux gives them, whatever the platform.
ERRORS = {
    1: "not permitted",
    5: "input/output error",
    12: "out of memory",
    22: "invalid argument",
    28: "no space left",
    75: "value too large",
    95: "not supported",
    108: "the server is shutting down",
}
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 22, 28, 75, 95, 108

# Bounds of what a server may make us allocate or walk.
MAX_OPTION_REPLY_BYTES = 64 << 10
MAX_OPTION_REPLIES = 4096
MAX_STATUS_BYTES = 4 + EXTENT.size * (128 << 10)  # QEMU's own bound on descriptors
MAX_ERROR_BYTES = 6 + 4096 + 8
MAX_STRING_BYTES = 4096
MAX_SIZE = (1 << 63) - 1
DEFAULT_MAX_BLOCK_BYTES = 32 << 20
LARGEST_MIN_BLOCK_BYTES = 64 << 10
