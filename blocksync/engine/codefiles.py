"""Where the receiver leaves its pairing codes for whoever may read files of its user: root, or what rolls it out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from blocksync.errors import StateError, from_os_error


class CodeFiles:
    """The files of a receiver's codes; may be made before there are codes, while we have the rights.

    Args:
        file: for the code of all slots; None for none.
        folder: for a file with a code of its own for each slot; None for none. Made where it is missing.
        slots: names.
    """

    def __init__(self, file: Path | None, folder: Path | None, slots: Iterable[str]) -> None:
        self._folder = folder
        self._file = None if file is None else _CodeFile(file)
        self._of_slots = {} if folder is None else {slot: _CodeFile(folder / slot) for slot in slots}

    def open(self) -> None:
        """Make the files, empty and private.

        Raises:
            StateError: they cannot be written.
        """
        if self._folder is not None:
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise from_os_error(error, StateError, f"cannot make the folder {self._folder}") from error
        for file in self._all():
            file.open()

    def write(self, code: str, codes: Iterable[tuple[str, str]]) -> None:
        """Write what was handed out.

        Raises:
            StateError: a file cannot be written.
        """
        self.open()
        if self._file is not None:
            self._file.write(code or "\n".join(f"{slot} {each}" for slot, each in codes))
        for slot, each in codes:
            self._of_slots[slot].write(each)

    def close(self) -> None:
        for file in self._all():
            file.close()

    def _all(self) -> list[_CodeFile]:
        return [*([] if self._file is None else [self._file]), *self._of_slots.values()]


class _CodeFile:
    """One of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def open(self) -> None:
        if self._descriptor >= 0:
            return
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
            self._descriptor = os.open(self._path, flags, 0o600)
            os.fchmod(self._descriptor, 0o600)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot write the pairing code to {self._path}") from error

    def write(self, text: str) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode() + b"\n", 0)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot write the pairing code to {self._path}") from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
