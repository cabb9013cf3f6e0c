"""The small scopes, as far as a test run has time for; ``python -m tests.simulation`` walks them to their end."""

from __future__ import annotations

import random

import pytest

from tests.simulation.disks import Image, Machine, empty_image
from tests.simulation.exhaustive import Explorer, Scope, Tally, scopes
from tests.simulation.passes import Acknowledged, ViolationError, check, open_store, run_pass

STATES_A_PASS = 20_000


@pytest.mark.parametrize("scope", list(scopes()), ids=lambda scope: scope.name)
def test_no_crash_makes_a_false_claim_or_loses_an_acknowledged_block(scope: Scope) -> None:
    tally = Tally()
    Explorer(scope, tally, STATES_A_PASS).run()
    assert tally.states >= STATES_A_PASS
    assert tally.images > 100
    assert tally.sampled == 0


def test_one_scope_to_its_end() -> None:
    # A kill between a rename and the folder's sync, then a power cut in the next run, is far from the beginning.
    tally = Tally()
    Explorer(next(scopes()), tally).run()
    assert tally.states > 1_000_000


def test_the_check_sees_a_claim_that_is_not_on_the_target() -> None:
    scope = next(scopes())
    machine = Machine(empty_image(scope.geometry.size), scope.sector)
    run_pass(machine, scope.geometry, scope.sources[0], Acknowledged(), scope.window_blocks)
    end = machine.freeze().image(0)
    assert check(end, scope.geometry, scope.sector, frozenset(range(4))) is not None
    damaged = Image(end.files, end.target[:5000] + bytes([end.target[5000] ^ 1]) + end.target[5001:])
    with pytest.raises(ViolationError, match="block 1"):
        check(damaged, scope.geometry, scope.sector, frozenset())


def test_the_check_sees_a_lost_block() -> None:
    scope = next(scopes())
    machine = Machine(empty_image(scope.geometry.size), scope.sector)
    open_store(machine.folder, scope.geometry).close()
    with pytest.raises(ViolationError, match="lost"):
        check(machine.freeze().image(0), scope.geometry, scope.sector, frozenset({2}))


def test_a_cache_loses_what_was_not_synced_and_keeps_what_was() -> None:
    machine = Machine(empty_image(8192), 4096)
    machine.target.write(0, memoryview(b"a" * 4096))
    machine.target.sync()
    machine.target.write(0, memoryview(b"b" * 8192))
    frozen = machine.freeze()
    images = {image.target[::4096] for image in frozen.images(100, random.Random(0))}
    assert images == {b"a\xee", b"b\xee", b"ab", b"bb"}
