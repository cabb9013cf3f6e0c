"""Hostile bytes at every surface that reads bytes of others: ``python -m fuzz SURFACE --seconds N``.

The promise: a value or a typed :class:`~blocksync.errors.BlocksyncError`, in bounded time and memory. Each module of
:mod:`fuzz.surfaces` is one surface; seeds are made by code; what breaks the promise is kept in ``fuzz/crashes`` and run
by the tests from then on.
"""
