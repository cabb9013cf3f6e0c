"""Waiting for a watchdog's answer does not depend on how many descriptors the process has."""

from __future__ import annotations

import fcntl
import os
import resource

from blocksync.platforms.waiting import readable

BEYOND_SELECT = 1500


def test_a_descriptor_above_1023_is_waited_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, BEYOND_SELECT + 1), hard))
    near, far = os.pipe()
    high = -1
    try:
        high = fcntl.fcntl(near, fcntl.F_DUPFD_CLOEXEC, BEYOND_SELECT)
        assert high >= BEYOND_SELECT
        assert not readable(high, 0)
        os.write(far, b"said")
        assert readable(high, 60)
        os.read(high, 4)
        os.close(far)
        far = -1
        assert readable(high, 60)  # the end is an answer too
    finally:
        for each in {near, far, high} - {-1}:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
