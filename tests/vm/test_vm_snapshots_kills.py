"""A sender is killed at each step of its snapshots, and nothing is left of it: see ``killing.py``, which runs there.

A kill takes ten seconds and more, so each run of the suite makes some, in random order; all of them:
``BLOCKSYNC_ALL_KILLS=1 pytest tests/vm/test_vm_snapshots_kills.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.vm import killing
from tests.vm.guest import Guest
from tests.vm.package import PLACE

CASES = {
    # A classic and a thin volume of one instant, with what the pass before has kept.
    "group": (("step", "step-thin"), "{0}=step {1}=step-thin --track"),
    # LVM makes the snapshot of a thin volume, and nothing is kept.
    "thin": (("alone-thin",), "{0} --slot alone-thin"),
}


ALL = bool(os.environ.get("BLOCKSYNC_ALL_KILLS"))
SECONDS = 30


def kills(guest: Guest, case: str) -> dict[str, Any]:
    slots, words = CASES[case]
    guest.put(Path(killing.__file__), "/root/killing.py")
    devices = [guest.create(slot, thin=slot.endswith("thin")) for slot in slots]
    pairs = " ".join(f"{device}=/root/{slot}.img" for device, slot in zip(devices, slots, strict=True))
    send = f"send {words.format(*devices)} --to 127.0.0.1:9001 --code-file code --json"
    environment = f"PYTHONPATH={PLACE} BLOCKSYNC_STATE_DIR=/root/state"
    how = "0 before,during,all" if ALL else f"{SECONDS} during,all"
    said = guest.run(f"{environment} python3 killing.py {how} {pairs} -- {send}", timeout=7200 if ALL else 600)
    guest.remove(*slots)
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    return result


@pytest.mark.parametrize("case", list(CASES) if ALL else ["group"])
def test_a_sender_that_is_killed_at_any_step_leaves_nothing(case: str, guest: Guest) -> None:
    result = kills(guest, case)
    assert 0 < result["kills"] <= result["of"]
    assert result["kills"] == result["of"] or not ALL
    assert result["wrong"] == [], "\n".join(result["wrong"])
