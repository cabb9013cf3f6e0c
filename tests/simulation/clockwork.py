"""Simulated time and threads: real code on greenlets, one running at a time, the next one chosen by a seed.

A :class:`Clockwork` runs *tasks*. A task gives way where a real thread could be interrupted or would wait: at locks,
events, conditions, joins, and at each operation of a simulated disk or network. Nothing waits in real time: when no
task can run, the clock jumps to the next timer. :data:`threading`, :data:`time` and :data:`secrets` stand in for the
modules of these names in the code under test (see ``seam.py``).

Tasks belong to a :class:`Process`. A process that is killed runs not one instruction more with effect: its tasks are
unwound by :class:`KilledError`, and every primitive raises that again while they are.
"""

from __future__ import annotations

import heapq
import random
import threading as real_threading
import time as real_time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from greenlet import getcurrent, greenlet

# How often an uncontended lock gives way.
LOCK_YIELDS = 0.03


class KilledError(BaseException):
    """Unwinds the tasks of a process that is no more."""


class StuckError(AssertionError):
    """Nothing can run and nothing will, or it goes on and on."""


class Process:
    """What dies at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.tasks: dict[Task, None] = {}
        self.on_death: list[Callable[[bool], None]] = []
        """Called with whether the machine went down with it."""


class Task(greenlet):
    """A thread of a simulated process."""

    def __init__(self, clockwork: Clockwork, process: Process, target: Callable[[], object], name: str) -> None:
        super().__init__(self._begin, clockwork.hub)
        self.clockwork = clockwork
        self.process = process
        self.name = name
        self.target = target
        self.waits = 0
        self.waiting = False
        self.timed_out = False
        self.done = False
        self.thread: Thread | None = None
        self.joiners: list[Task] = []

    def _begin(self) -> None:
        try:
            if not self.process.dead:
                self.target()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - the run's to judge
            if not self.process.dead:
                self.clockwork.crashed(self, error)
        finally:
            self.done = True
            self.process.tasks.pop(self, None)
            for joiner in self.joiners:
                self.clockwork.wake(joiner)


class Clockwork:
    """The scheduler of one run.

    Args:
        seed: of every choice.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.hub = getcurrent()
        self.now = 1000.0
        self.current: Task | None = None
        self.ready: list[Task] = []
        self.steps = 0
        self.failure: BaseException | None = None
        self.between: Callable[[], None] | None = None
        """Called once, before the next task runs."""
        self._timers: list[tuple[float, int, Task | None, int, Callable[[], None] | None]] = []
        self._serial = 0

    # -- for tasks ------------------------------------------------------------------------------------------------

    def spawn(self, process: Process, target: Callable[[], object], name: str) -> Task:
        task = Task(self, process, target, name)
        process.tasks[task] = None
        self.ready.append(task)
        return task

    def give_way(self) -> None:
        """Let others run first, perhaps."""
        task = self.current
        if task is None:
            return
        if task.process.dead:
            raise KilledError
        self.ready.append(task)
        self.hub.switch()
        if task.process.dead:
            raise KilledError

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until woken; returns whether the time ran out instead."""
        task = self.current
        if task is None:
            raise StuckError("a check had to wait")
        if task.process.dead:
            raise KilledError
        task.waits += 1
        task.waiting = True
        task.timed_out = False
        if timeout is not None:
            self._serial += 1
            heapq.heappush(self._timers, (self.now + max(timeout, 0.0), self._serial, task, task.waits, None))
        self.hub.switch()
        if task.process.dead:
            raise KilledError
        return task.timed_out

    def wake(self, task: Task) -> None:
        if task.waiting and not task.done:
            task.waiting = False
            self.ready.append(task)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call from the scheduler itself, later."""
        self._serial += 1
        heapq.heappush(self._timers, (self.now + seconds, self._serial, None, 0, call))

    def crashed(self, task: Task, error: BaseException) -> None:
        """A task ended by what no code of ours may let through."""
        if self.failure is None:
            self.failure = error

    # -- for whoever drives ---------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], most_steps: int) -> None:
        """Run tasks until a condition holds.

        Raises:
            StuckError: nothing can run, or too many steps were made.
        """
        random_below = self.chance.random
        ready = self.ready
        while not until():
            if self.failure is not None:
                raise self.failure
            if self.between is not None:
                call, self.between = self.between, None
                call()
                continue
            if not ready:
                self._advance()
                continue
            self.steps += 1
            if self.steps > most_steps:
                raise StuckError(f"not done after {most_steps} steps")
            index = int(random_below() * len(ready))
            task = ready[index]
            ready[index] = ready[-1]
            ready.pop()
            if task.done:
                continue
            self.current = task
            task.switch()
            self.current = None
        if self.failure is not None:
            raise self.failure

    def _advance(self) -> None:
        if not self._timers:
            raise StuckError("nothing can run: a deadlock")
        at, _, task, waits, call = heapq.heappop(self._timers)
        self.now = max(self.now, at)
        if call is not None:
            call()
        elif task is not None and task.waiting and task.waits == waits and not task.done:
            task.timed_out = True
            task.waiting = False
            self.ready.append(task)

    def kill(self, process: Process, *, machine_too: bool = False) -> None:
        """End a process at once; from the scheduler."""
        process.dead = True
        for call in process.on_death:
            call(machine_too)
        for task in tuple(process.tasks):
            self.current = task
            while task:  # started and not finished
                task.throw(KilledError)
            task.done = True
            self.current = None
        process.tasks.clear()
        self.ready[:] = [task for task in self.ready if not task.process.dead]


_world: Clockwork | None = None


def use(clockwork: Clockwork | None) -> None:
    """Make this the clockwork that the stand-ins below drive."""
    global _world  # noqa: PLW0603 - module stand-ins have no other place
    _world = clockwork


def world() -> Clockwork:
    assert _world is not None
    return _world


class Lock:
    """As :func:`threading.Lock`."""

    def __init__(self) -> None:
        self._owner: object = None
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        clockwork = world()
        if self._owner is None:
            if clockwork.current is None:
                self._owner = self
                return True
            if clockwork.chance.random() < LOCK_YIELDS:
                clockwork.give_way()
        while self._owner is not None:
            if not blocking:
                return False
            task = clockwork.current
            if task is not None:
                self._waiting.append(task)
            clockwork.wait()
        self._owner = clockwork.current or self
        return True

    def release(self) -> None:
        self._owner = None
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for task in waiting:
                task.clockwork.wake(task)

    def locked(self) -> bool:
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock(Lock):
    """As :func:`threading.RLock`."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = world().current or self
        if self._owner is not me and not super().acquire(blocking, timeout):
            return False
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            super().release()

    def release_all(self) -> int:
        depth, self._depth = self._depth, 0
        super().release()
        return depth

    def acquire_again(self, depth: int) -> None:
        super().acquire()
        self._depth = depth


class Condition:
    """As :class:`threading.Condition`."""

    def __init__(self, lock: RLock | None = None) -> None:
        self._lock = lock or RLock()
        self._waiting: list[Task] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        clockwork = world()
        assert clockwork.current is not None, "a check had to wait"
        self._waiting.append(clockwork.current)
        depth = self._lock.release_all()
        try:
            return not clockwork.wait(timeout)
        finally:
            if clockwork.current in self._waiting:
                self._waiting.remove(clockwork.current)
            self._lock.acquire_again(depth)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        end = None if timeout is None else world().now + timeout
        while not predicate():
            left = None if end is None else end - world().now
            if left is not None and left <= 0:
                return predicate()
            self.wait(left)
        return True

    def notify(self, count: int = 1) -> None:
        woken, self._waiting = self._waiting[:count], self._waiting[count:]
        for task in woken:
            task.clockwork.wake(task)

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Event:
    """As :class:`threading.Event`."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.clockwork.wake(task)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        clockwork = world()
        if not self._set:
            assert clockwork.current is not None, "a check had to wait"
            self._waiting.append(clockwork.current)
            clockwork.wait(timeout)
            if clockwork.current in self._waiting:
                self._waiting.remove(clockwork.current)
        return self._set


class Thread:
    """As :class:`threading.Thread`."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self._call = lambda: target(*args, **(kwargs or {})) if target else None
        self.name = name or "thread"
        self.daemon = daemon
        self.task: Task | None = None

    def start(self) -> None:
        clockwork = world()
        assert clockwork.current is not None
        self.task = clockwork.spawn(clockwork.current.process, self._call, self.name)
        self.task.thread = self

    @property
    def ident(self) -> int | None:
        return None if self.task is None else id(self.task)

    def is_alive(self) -> bool:
        return self.task is not None and not self.task.done

    def join(self, timeout: float | None = None) -> None:
        clockwork = world()
        assert self.task is not None
        while not self.task.done:
            assert clockwork.current is not None
            self.task.joiners.append(clockwork.current)
            if clockwork.wait(timeout):
                self.task.joiners.remove(clockwork.current)
                return


def _current_thread() -> object:
    """The thread of the running task; the task itself where nobody made a :class:`Thread` for it."""
    task = world().current
    return task.thread or task if task is not None else None


threading = SimpleNamespace(
    Lock=Lock,
    RLock=RLock,
    Condition=Condition,
    Event=Event,
    Thread=Thread,
    current_thread=_current_thread,
    main_thread=real_threading.main_thread,
    local=real_threading.local,
)

time = SimpleNamespace(
    monotonic=lambda: world().now,
    perf_counter=lambda: world().now,
    time=lambda: 1.7e9 + world().now,
    monotonic_ns=lambda: int(world().now * 1e9),
    time_ns=lambda: int((1.7e9 + world().now) * 1e9),
    sleep=lambda seconds: world().wait(seconds),
    process_time=lambda: world().now,
    thread_time=lambda: world().now,
    strftime=real_time.strftime,
    gmtime=real_time.gmtime,
)

secrets = SimpleNamespace(
    token_bytes=lambda count=32: world().chance.randbytes(count),
    token_hex=lambda count=32: world().chance.randbytes(count).hex(),
    randbelow=lambda most: int(world().chance.random() * most),
)
