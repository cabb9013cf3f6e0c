"""The seam: the code under test is imported with simulated modules in the place of some of Python's.

Every module of ``blocksync`` that is imported after :func:`install` gets the clockwork's stand-ins when it says
``import threading``, ``time`` or ``secrets``, however late; the modules that call the operating system for files
(``manifest/folder.py``, ``platforms/positioned.py``, ``targets/disk.py``) also get a simulated ``os``, and functions
of ``platforms``. Their code is the shipped one, to the byte: nothing is copied, subclassed or patched.
It works on the import itself, so it needs a process in which none of the package was imported before: hence a
program, not a fixture.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from tests.simulation import clockwork, osmodule

_EVERYWHERE = {"threading": clockwork.threading, "time": clockwork.time, "secrets": clockwork.secrets}
_WITH_FILES = {"blocksync.manifest.folder", "blocksync.platforms.positioned", "blocksync.targets.disk"}
_PLATFORM = {
    "hold_file": osmodule.hold_file,
    "sync_folder": osmodule.sync_folder,
    "punch": osmodule.punch,
    "write_zeros": osmodule.write_zeros,
    "drop_cached": osmodule.drop_cached,
    "allocated_from": osmodule.allocated_from,
    "swaps": osmodule.nothing,
    "loops_over": osmodule.nothing,
    "mounts_of": osmodule.nothing,
}
_PUT_IN: dict[str, dict[str, object]] = {
    "blocksync.platforms": _PLATFORM,
    "blocksync.platforms.privileges": {"keep_owner": osmodule.nothing},
}


def install() -> None:
    """Stand between ``blocksync`` and the modules it imports.

    Raises:
        RuntimeError: parts of the package were imported already.
    """
    if any(name == "blocksync" or name.startswith("blocksync.") for name in sys.modules):
        raise RuntimeError("the package was imported before the seam: run this as a program of its own")
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "blocksync" and not name.startswith("blocksync."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.machinery.SourceFileLoader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        replaced: dict[str, object] = dict(_EVERYWHERE)
        if module.__name__ in _WITH_FILES:
            replaced["os"] = osmodule.os

        def importing(
            name: str, spaces: Any = None, names: Any = None, wanted: Sequence[str] = (), level: int = 0
        ) -> object:
            if level == 0 and name in replaced:
                return replaced[name]
            return builtins.__import__(name, spaces, names, wanted, level)

        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": importing}
        self._loader.exec_module(module)
        vars(module).update(_PUT_IN.get(module.__name__, {}))
