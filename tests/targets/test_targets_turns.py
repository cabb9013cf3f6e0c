"""Writes into an image take turns, its twin's too; writes to a device do not wait for each other."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from blocksync.targets import open_target
from blocksync.targets.base import Target
from tests.devices import image, loop_device, need_root

KIB = 1024
SIZE = 1 << 20
THREADS = 4


def writers_at_once(targets: list[Target], monkeypatch: pytest.MonkeyPatch) -> int:
    """The most writes that were inside the kernel's call at once, of THREADS threads that each write 16 times."""
    inside, most, guard, pwrite = 0, 0, threading.Lock(), os.pwrite

    def counted(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        time.sleep(0.002)  # long enough for the others to come
        written = pwrite(descriptor, data, offset)
        with guard:
            inside -= 1
        return written

    def work(number: int) -> None:
        for turn in range(16):
            targets[number % len(targets)].write(
                (number * 16 + turn) * 4 * KIB, memoryview(bytes([number + 1]) * 4 * KIB)
            )

    monkeypatch.setattr(os, "pwrite", counted)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    return most


def test_writes_into_an_image_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image(tmp_path / "target.img", SIZE)
    with open_target(str(path), overwrite=True) as target, target.twin() as twin:
        assert writers_at_once([target, twin], monkeypatch) == 1
    content = path.read_bytes()
    assert all(content[n * 64 * KIB :][: 64 * KIB] == bytes([n + 1]) * 64 * KIB for n in range(THREADS))


def test_writes_to_a_device_do_not_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    with loop_device(image(tmp_path / "disk.img", SIZE)) as device, open_target(device, overwrite=True) as target:
        assert writers_at_once([target], monkeypatch) > 1
