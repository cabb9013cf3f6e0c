"""What must not be written to, what could not be read, and whose rights are given up: rules 9 and 11."""

from __future__ import annotations

from tests.planted.bug import Bug

_FITNESS = "targets/fitness.py"
_REFUSALS = "targets/test_targets_refusals.py"
_RESCUE = "sources/rescue.py"
_RESCUE_TESTS = "sources/test_sources_rescue.py"
_RIGHTS = "platforms/privileges.py"
_RIGHTS_TESTS = "privileges/test_privileges_user.py"

OUTSIDE = [
    Bug(
        name="a mounted device is written to",
        file=_FITNESS,
        old="        if mounted:\n",
        new="        if False:\n",
        gate=f"{_REFUSALS}::test_a_mounted_device",
    ),
    Bug(
        name="what is swapped to is written to",
        file=_FITNESS,
        old="        if same_file or (device and swap.st_rdev == device):",
        new="        if False:",
        gate=f"{_REFUSALS}::test_a_device_used_as_swap",
    ),
    Bug(
        name="a file below a loop device is written to",
        file=_FITNESS,
        old="    for name, number in loops_over(status):\n        mounted",
        new="    for name, number in ():\n        mounted",
        gate=f"{_REFUSALS}::test_a_file_below_a_loop_device",
    ),
    Bug(
        name="a device that another process has for itself is written to",
        file="targets/disk.py",
        old="self._open_path(os.O_RDWR | os.O_EXCL)",
        new="self._open_path(os.O_RDWR)",
        gate=f"{_REFUSALS}::test_a_device_that_another_process_holds",
    ),
    Bug(
        name="state may lie on the target",
        file=_FITNESS,
        old="    if on_device or on_file:",
        new="    if on_file:",
        gate=f"{_REFUSALS}::test_state_on_the_target",
    ),
    Bug(
        name="a disk is copied onto itself",
        file=_FITNESS,
        old="            same = same or any(same_storage(status, target) for status in storages([source]))",
        new="            same = same or not target",
        gate=f"{_REFUSALS}::test_a_disk_is_not_copied_onto_itself",
    ),
    Bug(
        name="a dying disk is read on",
        file=_RESCUE,
        old="        if many:",
        new="        if False:",
        gate=f"{_RESCUE_TESTS}::test_a_dying_disk_is_given_up",
    ),
    Bug(
        name="what could not be read is not listed",
        file=_RESCUE,
        old="            self._bad.add(offset)",
        new="            self._bad.discard(offset)",
        gate=_RESCUE_TESTS,
    ),
    Bug(
        name="root's groups are kept",
        file=_RIGHTS,
        old="        os.setgroups([])\n",
        new="",
        gate=f"{_RIGHTS_TESTS}::test_it_is_that_user_alone_and_there_is_no_way_back",
    ),
    Bug(
        name="rights may come back",
        file=_RIGHTS,
        old="    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):",
        new="    if False:",
        gate=f"{_RIGHTS_TESTS}::test_it_is_that_user_alone_and_there_is_no_way_back",
    ),
    Bug(
        name="the helper opens with any flags",
        file="targets/helper.py",
        old="                if index >= len(places) or flags & ~_ALLOWED:",
        new="                if index >= len(places):",
        gate=f"{_RIGHTS_TESTS}::test_the_helper_opens_what_it_was_given_and_nothing_else",
    ),
    Bug(
        name="a HELLO may say what nobody reads",
        file="protocol/wire.py",
        old="        if any(payload[_HELLO_USED_BYTES:]):",
        new="        if False:",
        gate="protocol/test_protocol_frames.py::test_a_hello_with_something_in_its_reserved_bytes_is_refused",
    ),
    Bug(
        name="an answer's deadline begins anew with each packet",
        file="control/connection.py",
        old="        left = self.deadline - time.monotonic()",
        new="        left = 15.0",
        gate="control/test_control_connection.py::test_a_receiver_that_dribbles_meets_the_deadline_of_the_whole",
    ),
]
