"""Time passes for real processes: a transfer that nobody touches expires, and a week later nothing is kept of it."""

from __future__ import annotations

import time
from pathlib import Path

from cli_processes import MIB, Ended, command, environment, fails, make_disk, receiver

from blocksync.transfers.states import COLLECT_AFTER_DAYS, DAY_SECONDS

VALIDITY_DAYS = 7


def later(days: float) -> dict[str, str]:
    """The environment of a process whose clock is so much ahead; how long things take it measures as it is."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    # The first name is that of newer versions, the second that of older ones.
    real = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    return environment(LD_PRELOAD=str(library), FAKETIME=f"+{days * DAY_SECONDS:.0f}", **real)


def kept(state: Path) -> list[str]:
    """Files of transfers, of copies of manifests, and of predictions."""
    folders = (state / "transfers", state / "copies", state / "estimates")
    return [str(path.relative_to(state)) for folder in folders for path in folder.rglob("*") if path.is_file()]


def status(state: Path, days: float) -> Ended:
    shown = command("status", "--state-dir", state, "--json", env=later(days))
    assert shown.code == 0, shown
    return shown


def test_an_untouched_transfer_expires_and_is_collected_a_week_later(folder: Path, disk: Path) -> None:
    state = folder / "s-state"
    with receiver(folder) as there:
        near = ("--to", there.to, "--state-dir", state, "--json")
        told = command("estimate", disk, *near, env=environment(BLOCKSYNC_CODE=there.code))
        assert told.code == 0, told
        sent = command("send", disk, *near, "--validity", VALIDITY_DAYS)
        assert sent.code == 0, sent
        name = sent.last["transfer"]
        before = kept(state)
        assert f"transfers/{name}/record.json" in before
        assert {path.split("/")[0] for path in before} == {"transfers", "copies", "estimates"}

        (waiting,) = status(state, VALIDITY_DAYS - 0.1).last["transfers"]
        assert (waiting["id"], waiting["state"]) == (name, "waiting")
        assert 0 < waiting["expires"] - time.time() - (VALIDITY_DAYS - 0.1) * DAY_SECONDS <= 0.1 * DAY_SECONDS

        (expired,) = status(state, VALIDITY_DAYS + 0.1).last["transfers"]
        assert (expired["id"], expired["state"]) == (name, "expired")
        words = command("status", disk, "--state-dir", state, env=later(VALIDITY_DAYS + 0.1))
        assert "expired" in words.out
        fails(command("stop", disk, "--final", "--state-dir", state, "--json", env=later(VALIDITY_DAYS + 0.1)), 6)
        (still,) = status(state, VALIDITY_DAYS + COLLECT_AFTER_DAYS - 0.1).last["transfers"]
        assert still["state"] == "expired"
        assert kept(state) == before

        over = VALIDITY_DAYS + COLLECT_AFTER_DAYS + 0.1
        assert status(state, over).last["transfers"] == []
        assert kept(state) == []
        assert not (state / "transfers" / name).exists()
        assert command("status", "--state-dir", state, env=later(over)).out == "no transfer\n"

    # What the receiver holds was not touched; its own clock may be where it likes.
    ports = (int(there.listening["control_port"]), int(there.listening["data_port"]))
    with receiver(folder, ports=ports, env=later(over)) as there:
        again = command("send", disk, *near, env=later(over))
        assert again.code == 0, again
        assert again.last["transfer"] != name
        assert (again.last["kind"], again.last["changed"], again.last["generation"]) == ("incremental", 0, 2)
    assert there.target.stat().st_size == 4 * MIB


def test_who_works_on_it_in_time_keeps_it(folder: Path, disk: Path) -> None:
    state = folder / "s-state"
    with receiver(folder) as there:
        near = ("--to", there.to, "--state-dir", state, "--json")
        sent = command("send", disk, *near, "--validity", VALIDITY_DAYS, env=environment(BLOCKSYNC_CODE=there.code))
        again = command("send", disk, *near, "--validity", VALIDITY_DAYS, env=later(VALIDITY_DAYS - 1))
        assert again.last["transfer"] == sent.last["transfer"]
        (kept_on,) = status(state, 2 * VALIDITY_DAYS - 1.5).last["transfers"]
        assert kept_on["state"] == "waiting"


def test_the_next_send_of_another_disk_collects_it_too(folder: Path, disk: Path) -> None:
    state = folder / "s-state"
    with receiver(folder) as there, receiver(folder, name="other", slot="other") as elsewhere:
        near = ("--state-dir", state, "--json")
        words = ("send", disk, "--to", there.to, *near, "--validity", VALIDITY_DAYS)
        sent = command(*words, env=environment(BLOCKSYNC_CODE=there.code))
        other = make_disk(folder / "second.img", 4 * MIB, data=MIB, seed=2)
        over = later(VALIDITY_DAYS + COLLECT_AFTER_DAYS + 0.1)
        done = command("send", other, "--to", elsewhere.to, *near, env={**over, "BLOCKSYNC_CODE": elsewhere.code})
        assert done.code == 0, done
    left = kept(state)
    assert not any(sent.last["transfer"] in path for path in left)
    copies = [path for path in left if path.startswith("copies/")]
    assert copies
    assert all("/other/" in path for path in copies)
