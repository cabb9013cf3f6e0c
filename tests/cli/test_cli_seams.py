"""Faults that need a receiver with another clock or another version: it runs in this process, the sender does not."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_processes import MIB, command, fails

from blocksync import api


@contextlib.contextmanager
def receiving(folder: Path) -> Iterator[api.Listening]:
    cancel = api.Cancel()
    heard: queue.Queue[api.Listening] = queue.Queue()
    options = api.ReceiveOptions(
        targets=(api.TargetSpec(path=str(folder / "t.img"), slot="disk", create_size=4 * MIB),),
        listen="127.0.0.1",
        control_port=0,
        data_port=0,
        state_dir=folder / "r-state",
        on_listening=heard.put,
    )
    thread = threading.Thread(target=api.receive, args=(options,), kwargs={"cancel": cancel})
    thread.start()
    try:
        yield heard.get(timeout=60)
    finally:
        cancel.set()
        thread.join()


def test_a_code_that_expired(folder: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later, time=time.time)
    monkeypatch.setattr("blocksync.engine.serving.time", clock)
    with receiving(folder) as listening:
        near = ("send", disk, "--to", f"127.0.0.1:{listening.control_port}", "--json", "--code", listening.code)
        later = 15 * 60 + 1.0
        error = fails(command(*near, "--state-dir", folder / "s"), 12, "expired")
        assert "fresh code" in error["remedy"]


def test_a_receiver_of_another_version(folder: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(folder) as listening:
        near = ("--to", f"127.0.0.1:{listening.control_port}", "--json", "--state-dir", folder / "s")
        assert command("send", disk, *near, "--code", listening.code).code == 0
        monkeypatch.setattr("blocksync.protocol.messages.CONTROL_VERSION", 99)
        error = fails(command("send", disk, *near), 7, "99")
        assert error["code"] == "BS0702"
        assert "same version" in error["remedy"]
        assert fails(command("verify", disk, *near), 7)["code"] == "BS0702"
