"""One receiver and 32 machines that send to it at once, each paired by a code of its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from blocksync import api
from blocksync.engine.serving import Serving
from blocksync.engine.statedir import prepare
from blocksync.errors import BlocksyncError, TrustError
from blocksync.options import ReceiveOptions, SendOptions, TargetSpec
from blocksync.results import Progress

SLOTS = 32
SIZE = 2 << 20
# Connections for all, and less for what is held back than they all want to hold.
BUFFERS = 160 << 20


def at_once(work: Callable[[int], object]) -> None:
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(SLOTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_thirty_two_senders_at_once_within_one_budget(tmp_path: Path) -> None:
    together = threading.Barrier(SLOTS)

    def heard(progress: Progress) -> None:
        if progress.stage == "opened":
            # No session goes on before all are open: 32 at once, or the test fails.
            together.wait(60)

    options = ReceiveOptions(
        targets=tuple(
            TargetSpec(path=str(tmp_path / f"t{at}"), slot=f"s{at}", create_size=SIZE) for at in range(SLOTS)
        ),
        listen="127.0.0.1",
        control_port=0,
        data_port=0,
        state_dir=tmp_path / "far",
        code_folder=tmp_path / "codes",
        memory=BUFFERS,
        progress=heard,
    )
    serving = Serving(options, prepare(options.state_dir))
    try:
        listening = serving.listening()
        assert listening.code == ""
        assert dict(listening.codes) == {
            f"s{at}": (tmp_path / "codes" / f"s{at}").read_text().strip() for at in range(SLOTS)
        }
        assert (tmp_path / "codes" / "s0").stat().st_mode & 0o777 == 0o600
        generation = 0

        def send(at: int) -> None:
            result = api.send(
                str(tmp_path / f"d{at}"),
                SendOptions(
                    to=f"127.0.0.1:{listening.control_port}",
                    state_dir=tmp_path / f"near{at}",
                    code=dict(listening.codes)[f"s{at}"],
                ),
            )
            assert (result.slot, result.generation) == (f"s{at}", generation)

        for generation in (1, 2):
            for at in range(SLOTS):
                (tmp_path / f"d{at}").write_bytes(random.Random(at * 10 + generation).randbytes(SIZE))
            at_once(send)
            for at in range(SLOTS):
                assert (tmp_path / f"t{at}").read_bytes() == (tmp_path / f"d{at}").read_bytes()
        budget = serving._receiver.slots["s0"].budget
        assert 0 < budget.most_held_bytes <= BUFFERS * 3 // 8
        assert budget.held_bytes == budget.connection_bytes == 0
        assert {len(peer.slots) for peer in api.peers(tmp_path / "far")} == {1}
    finally:
        serving.close()


def test_a_slots_code_lets_nobody_into_another_slot(tmp_path: Path) -> None:
    options = ReceiveOptions(
        targets=tuple(TargetSpec(path=str(tmp_path / name), slot=name, create_size=SIZE) for name in "ab"),
        listen="127.0.0.1",
        control_port=0,
        data_port=0,
        state_dir=tmp_path / "far",
        code_folder=tmp_path / "codes",
    )
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SIZE))
    serving = Serving(options, prepare(options.state_dir))
    try:
        listening = serving.listening()
        codes = dict(listening.codes)

        def send(slot: str, code: str, name: str) -> None:
            wanted = SendOptions(
                to=f"127.0.0.1:{listening.control_port}", slot=slot, code=code, state_dir=tmp_path / name
            )
            api.send(str(disk), wanted)

        with pytest.raises(BlocksyncError, match="no grant for slot b"):
            send("b", codes["a"], "one")
        with pytest.raises(TrustError, match="used up"):
            send("a", codes["a"], "two")
        send("b", codes["b"], "two")
    finally:
        serving.close()
