"""NBD addresses and qcow2 images as sources and targets of whole transfers over TLS."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blocksync import api
from blocksync.cli.receiving import target_specs
from blocksync.engine.statedir import local_folder, slot_name_for
from blocksync.options import ReceiveOptions, SendOptions, TargetSpec, VerifyOptions
from blocksync.results import Listening
from tests.devices import image, run
from tests.nbd.servers import nbdkit, qemu_nbd

MIB = 1 << 20


def test_addresses_as_targets_have_slots_and_no_size() -> None:
    texts = ("vm=nbd://host/a", "nbd+unix:///?socket=/run/it.sock", "img=disk.qcow2")
    specs = target_specs(texts, MIB, ("nbd://host/a",))
    assert [(spec.slot, spec.path, spec.create_size, spec.overwrite) for spec in specs] == [
        ("vm", "nbd://host/a", None, True),
        ("", "nbd+unix:///?socket=/run/it.sock", None, False),
        ("img", "disk.qcow2", MIB, False),
    ]
    assert slot_name_for("nbd+unix:///?socket=/run/it.sock") == "it.sock"
    assert slot_name_for("nbd://host/disk") == "disk"


def test_the_state_of_an_export_does_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = local_folder(tmp_path, "nbd://host/a")
    monkeypatch.chdir(tmp_path)
    assert local_folder(tmp_path, "nbd://host/a") == before


@contextmanager
def receiving(folder: Path, *targets: TargetSpec) -> Iterator[Listening]:
    heard: list[Listening] = []
    ready, cancel = threading.Event(), api.Cancel()
    options = ReceiveOptions(
        targets=targets,
        listen="127.0.0.1",
        control_port=0,
        data_port=0,
        state_dir=folder / "receiver",
        on_listening=lambda listening: (heard.append(listening), ready.set())[1],  # type: ignore[func-returns-value]
    )
    thread = threading.Thread(target=api.receive, args=(options,), kwargs={"cancel": cancel})
    thread.start()
    try:
        assert ready.wait(60)
        yield heard[0]
    finally:
        cancel.set()
        thread.join()


def test_an_export_is_sent_to_a_qcow2_image_and_an_image_to_an_export(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 24 * MIB)
    with disk.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(random.Random(11).randbytes(3 * MIB))
    copy = tmp_path / "copy.qcow2"
    other = image(tmp_path / "other.img", 24 * MIB)
    with (
        nbdkit(tmp_path, "file", disk) as source,
        qemu_nbd(tmp_path, other, "--shared=8") as export,
        receiving(
            tmp_path,
            TargetSpec(path=str(copy), slot="image", create_size=24 * MIB),
            TargetSpec(path=export, slot="export"),
        ) as at,
    ):
        to, state = f"127.0.0.1:{at.control_port}", tmp_path / "sender"
        sent = api.send(source, SendOptions(to=to, slot="image", code=at.code, state_dir=state))
        assert sent.changed == 3 * MIB
        assert sent.consistency == "live"
        assert api.verify(source, VerifyOptions(to=to, slot="image", state_dir=state)).identical
        api.send(str(disk), SendOptions(to=to, slot="export", state_dir=state))
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, copy)
    assert other.read_bytes() == disk.read_bytes()
