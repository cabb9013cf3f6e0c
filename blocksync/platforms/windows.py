r"""Windows: the calls of ``kernel32.dll`` that blocksync makes, all of them, and nothing else.

Everything above knows :class:`WindowsCalls` alone, so that it is tested on other systems against a recorded and a
simulated one. Signatures after Microsoft's reference of ``fileapi.h``, ``ioapiset.h``, ``processthreadsapi.h``.
The module can be imported anywhere; only :func:`system_calls` needs Windows.

Handles are synchronous: the system lets one read after the other through each, at the offset that the read names, so
several threads may use one. They are opened without buffering, as the design wants it of devices; the memory of such
a read must be aligned as the device's sectors are, and what is not is read through a page of ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from ctypes import wintypes
from typing import Any, Protocol

_GENERIC_READ = 0x80000000
_FILE_READ_ATTRIBUTES = 0x80
_SHARE_READ_WRITE_DELETE = 1 | 2 | 4
_OPEN_EXISTING = 3
_FILE_FLAG_NO_BUFFERING = 0x20000000
_FILE_FLAG_BACKUP_SEMANTICS = 0x02000000
_PROCESS_QUERY_LIMITED_INFORMATION = 0x1000
_STILL_ACTIVE = 259
_INVALID_HANDLE = ctypes.c_void_p(-1).value
_NAME_CHARACTERS = 1024
_PAGE_BYTES = 4096

ERROR_HANDLE_EOF = 38
ERROR_MORE_DATA = 234
_ERROR_NO_MORE_FILES = 18
# Windows' numbers (winerror.h) as those of everybody else; what is not here is a failing medium's.
_NUMBERS = {
    1: errno.EOPNOTSUPP,
    2: errno.ENOENT,
    3: errno.ENOENT,
    5: errno.EACCES,
    21: errno.ENODEV,
    32: errno.EBUSY,
    50: errno.EOPNOTSUPP,
    55: errno.ENODEV,
    87: errno.EINVAL,
    170: errno.EBUSY,
    433: errno.ENODEV,
    1167: errno.ENODEV,
}


class WindowsFault(OSError):  # noqa: N818 - what Windows says, an OSError to all others
    """A call failed; ``number`` is Windows' own (GetLastError)."""

    def __init__(self, number: int) -> None:
        general = _NUMBERS.get(number, errno.EIO)
        super().__init__(general, f"{os.strerror(general)} (Windows error {number})")
        self.number = number


class WindowsCalls(Protocol):
    """What of Windows is used. All raise :class:`WindowsFault`."""

    def open(self, path: str, /, *, attributes_only: bool = False) -> int:
        r"""A handle of a device or file: ``\\.\PhysicalDrive0``, ``\\?\GLOBALROOT\Device\…`` without a backslash at
        the end; never for writing."""
        ...

    def close(self, handle: int, /) -> None: ...

    def control(self, handle: int, code: int, given: bytes, room: int, /) -> tuple[bytes, bool]:
        """DeviceIoControl: the answer, and whether there is more than ``room`` bytes of it."""
        ...

    def read(self, handle: int, offset: int, buffer: memoryview, /) -> int:
        """Bytes read; 0 at the end. Offset and length are multiples of the device's sector."""
        ...

    def volumes(self) -> list[str]:
        r"""Names of all volumes, ``\\?\Volume{…}\``."""
        ...

    def mount_points(self, volume: str, /) -> list[str]:
        r"""Where a volume is mounted: ``C:\``."""
        ...

    def process_began(self, pid: int, /) -> int:
        """When a process was made, in units that never repeat; 0 where it does not run."""
        ...


class _Overlapped(ctypes.Structure):
    _fields_ = (
        ("internal", ctypes.c_size_t),
        ("internal_high", ctypes.c_size_t),
        ("offset", wintypes.DWORD),
        ("offset_high", wintypes.DWORD),
        ("event", wintypes.HANDLE),
    )


class Kernel32:
    """:class:`WindowsCalls` by ctypes.

    Args:
        dll: ``kernel32``, loaded with its last error kept.
        last_error: ``ctypes.get_last_error``.
    """

    def __init__(self, dll: Any, last_error: Callable[[], int]) -> None:
        self._dll = dll
        self._last_error = last_error
        handle, count, text = wintypes.HANDLE, wintypes.DWORD, wintypes.LPCWSTR
        pointer = ctypes.c_void_p
        for name, result, arguments in (
            ("CreateFileW", handle, (text, count, count, pointer, count, count, handle)),
            ("CloseHandle", wintypes.BOOL, (handle,)),
            ("DeviceIoControl", wintypes.BOOL, (handle, count, pointer, count, pointer, count, pointer, pointer)),
            ("ReadFile", wintypes.BOOL, (handle, pointer, count, pointer, pointer)),
            ("FindFirstVolumeW", handle, (pointer, count)),
            ("FindNextVolumeW", wintypes.BOOL, (handle, pointer, count)),
            ("FindVolumeClose", wintypes.BOOL, (handle,)),
            ("GetVolumePathNamesForVolumeNameW", wintypes.BOOL, (text, pointer, count, pointer)),
            ("OpenProcess", handle, (count, wintypes.BOOL, count)),
            ("GetExitCodeProcess", wintypes.BOOL, (handle, pointer)),
            ("GetProcessTimes", wintypes.BOOL, (handle, pointer, pointer, pointer, pointer)),
        ):
            call = getattr(dll, name)
            call.restype, call.argtypes = result, arguments

    def _fault(self) -> WindowsFault:
        return WindowsFault(self._last_error())

    def open(self, path: str, /, *, attributes_only: bool = False) -> int:
        access, flags = _GENERIC_READ, _FILE_FLAG_NO_BUFFERING
        if attributes_only:
            access, flags = _FILE_READ_ATTRIBUTES, _FILE_FLAG_BACKUP_SEMANTICS
        handle = self._dll.CreateFileW(path, access, _SHARE_READ_WRITE_DELETE, None, _OPEN_EXISTING, flags, None)
        if handle in (None, _INVALID_HANDLE):
            raise self._fault()
        return int(handle)

    def close(self, handle: int, /) -> None:
        self._dll.CloseHandle(handle)

    def control(self, handle: int, code: int, given: bytes, room: int, /) -> tuple[bytes, bool]:
        question = ctypes.create_string_buffer(given, len(given)) if given else None
        answer = ctypes.create_string_buffer(room) if room else None
        count = wintypes.DWORD(0)
        done = self._dll.DeviceIoControl(
            handle, code, question, len(given), answer, room, ctypes.byref(count), None
        )
        more = False
        if not done:
            fault = self._fault()
            if fault.number != ERROR_MORE_DATA:
                raise fault
            more = True
        return (answer.raw[: count.value] if answer is not None else b""), more

    def read(self, handle: int, offset: int, buffer: memoryview, /) -> int:
        # The fault is raised where nothing points into the buffer any more: its traceback would keep that.
        count, fault = self._read(handle, offset, buffer)
        if fault is not None:
            raise fault
        return count

    def _read(self, handle: int, offset: int, buffer: memoryview) -> tuple[int, WindowsFault | None]:
        place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        if ctypes.addressof(place) % _PAGE_BYTES:
            return self._read_through(handle, offset, buffer)
        count = wintypes.DWORD(0)
        at = _Overlapped(offset=offset & 0xFFFFFFFF, offset_high=offset >> 32)
        if self._dll.ReadFile(handle, place, len(buffer), ctypes.byref(count), ctypes.byref(at)):
            return count.value, None
        fault = self._fault()
        return 0, None if fault.number == ERROR_HANDLE_EOF else fault

    def _read_through(self, handle: int, offset: int, buffer: memoryview) -> tuple[int, WindowsFault | None]:
        room = bytearray(len(buffer) + _PAGE_BYTES)
        first = -ctypes.addressof(ctypes.c_char.from_buffer(room)) % _PAGE_BYTES
        view = memoryview(room)[first : first + len(buffer)]
        count, fault = self._read(handle, offset, view)
        buffer[:count] = view[:count]
        return count, fault

    def volumes(self) -> list[str]:
        name = ctypes.create_unicode_buffer(_NAME_CHARACTERS)
        search = self._dll.FindFirstVolumeW(name, _NAME_CHARACTERS)
        if search in (None, _INVALID_HANDLE):
            raise self._fault()
        found = [name.value]
        try:
            while self._dll.FindNextVolumeW(search, name, _NAME_CHARACTERS):
                found.append(name.value)
            fault = self._fault()
            if fault.number != _ERROR_NO_MORE_FILES:
                raise fault
        finally:
            self._dll.FindVolumeClose(search)
        return found

    def mount_points(self, volume: str, /) -> list[str]:
        names = ctypes.create_unicode_buffer(_NAME_CHARACTERS)
        count = wintypes.DWORD(0)
        if not self._dll.GetVolumePathNamesForVolumeNameW(volume, names, _NAME_CHARACTERS, ctypes.byref(count)):
            raise self._fault()
        told = "".join(names[: min(count.value, _NAME_CHARACTERS)])
        return [name for name in told.split("\0") if name]

    def process_began(self, pid: int, /) -> int:
        handle = self._dll.OpenProcess(_PROCESS_QUERY_LIMITED_INFORMATION, False, pid)
        if not handle:
            return 0
        try:
            code = wintypes.DWORD(0)
            times = ctypes.create_string_buffer(32)
            places = [ctypes.addressof(times) + at for at in (0, 8, 16, 24)]
            if not self._dll.GetExitCodeProcess(handle, ctypes.byref(code)) or code.value != _STILL_ACTIVE:
                return 0
            if not self._dll.GetProcessTimes(handle, *places):
                return 0
            return int(struct.unpack_from("<Q", times.raw)[0])
        finally:
            self._dll.CloseHandle(handle)


def system_calls() -> WindowsCalls:
    """This machine's.

    Raises:
        OSError: it does not run Windows.
    """
    load, last_error = getattr(ctypes, "WinDLL", None), getattr(ctypes, "get_last_error", None)
    if load is None or last_error is None:
        raise OSError(errno.EOPNOTSUPP, "only a machine that runs Windows has such devices")
    return Kernel32(load("kernel32", use_last_error=True), last_error)
