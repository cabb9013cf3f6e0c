"""Options and results of an estimate. All sizes are bytes, all times seconds, all rates bytes a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocksync.options import DEFAULT_CONNECTIONS, AskCode, ProgressCallback

# What changes tends to more than so many times what was seen of it: how much was not seen.
ENDLESS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateOptions:
    """What to estimate. The fields that :class:`~blocksync.options.SendOptions` has too mean the same.

    Args:
        to: the receiver; empty to sample the source only, and to predict nothing of the pass.
        watch: seconds to watch the source change; 0 predicts no following passes.
        pause: seconds that the last pass may take with the source quiet.
        flatten: also predict how long dividing the target and repairing the system on it take.
        seed: of the places that are sampled; None for fresh ones.
        slot, code, ask_code, state_dir, connections, level, bwlimit, progress: as there.
    """

    to: str = ""
    slot: str = ""
    code: str | None = None
    ask_code: AskCode | None = None
    state_dir: Path | None = None
    connections: int = DEFAULT_CONNECTIONS
    level: int | None = None
    bwlimit: int = 0
    watch: float = 0.0
    pause: float = 60.0
    flatten: bool = False
    seed: int | None = None
    progress: ProgressCallback | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A figure that is not known exactly: the likeliest value, and between which it lies in nine of ten cases."""

    likely: float
    low: float
    high: float

    @property
    def span(self) -> tuple[float, float, float]:
        return self.likely, self.low, self.high

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def plus(self, seconds: float) -> Range:
        return Range(likely=self.likely + seconds, low=self.low + seconds, high=self.high + seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelFigures:
    """What a compression level does to the sampled data that is not zero.

    Args:
        level: of zstd; None for no compression.
        ratio: plain bytes for each byte on the wire.
        rate: plain bytes a second on one thread.
    """

    level: int | None
    ratio: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFigures:
    """What the samples say of the source.

    Args:
        holes: bytes of the disk that are known to read as zeros without reading them.
        unused: bytes that no filesystem uses.
        data: bytes that must be read.
        samples: extents that were sampled; sampled: bytes.
        zero_share, incompressible_share: of ``data``.
        read_rate: of this source by as many threads as there are connections.
        levels: in the order of the ladder.
    """

    size: int
    holes: int
    unused: int
    data: int
    samples: int
    sampled: int
    zero_share: float
    incompressible_share: float
    read_rate: float
    levels: tuple[LevelFigures, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """What the probe says of the link.

    Args:
        round_trip: of a connection to the control port.
        rates: ``(connections, rate)`` of data that does not shrink.
    """

    round_trip: float
    rates: tuple[tuple[int, float], ...]

    @property
    def best(self) -> float:
        return max((rate for _, rate in self.rates), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFigures:
    """A following pass as predicted: its time, what it sends, what is on the wire."""

    seconds: float
    changed: float
    wire: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFigures:
    """How the source changes, and where that leads.

    Args:
        watched: seconds.
        points: ``(seconds, bytes)``: so much differs from how it was, after so long.
        rate: at first, bytes a second.
        hot: bytes that are written again and again; what differs tends to this.
        passes: the following ones, until the next would be no shorter.
        converges: the last pass is within the pause that was asked for.
        pause: how long the last pass takes with the source quiet; None without a receiver.
        needed: wire rate at which it would be within the pause; None where no link helps.
        tracker: whose dirty map told what changed; empty where sampled pages were read again.
    """

    watched: float
    points: tuple[tuple[float, float], ...]
    rate: float
    hot: float
    passes: tuple[PassFigures, ...]
    converges: bool
    pause: Range | None
    needed: float | None
    tracker: str = ""

    @property
    def steady(self) -> bool:
        """Whether it grew by as much at the end of the watching as at first: nobody saw then where ``hot`` lies."""
        return self.hot > ENDLESS * max((changed for _, changed in self.points), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateResult:
    """An estimate.

    Args:
        source: its name.
        figures: what the samples of it say.
        changes: how fast it changes, and the passes that follow from that; None where it was not watched.
        slot, to: where the transfer would go; empty without a probe.
        link: what the probe says; None without one.
        generation: committed passes that the slot holds already: the next pass would be incremental.
        seconds: of the first pass as ``send`` counts them: preparation, transfer and commit.
        preparation, transfer, commit: its parts.
        verify: if it is asked for afterwards.
        wire: bytes on the data connections.
        rate: bytes of the disk a second, while it transfers.
        bottleneck: ``read``, ``processor``, ``link`` or ``target``.
        level: of compression that the rehearsal ended with; None for none.
        target: ``file`` where the target's writing was measured on a scratch file, ``nowhere`` where it was not.
        took: seconds that the estimate took.
        divide, repair: with ``flatten``: before the first pass, and after the last one.
    """

    source: str
    slot: str
    to: str
    generation: int
    figures: SourceFigures
    link: LinkFigures | None
    seconds: Range | None
    preparation: float
    transfer: Range | None
    commit: float
    verify: Range | None
    wire: Range | None
    rate: float
    bottleneck: str
    level: int | None
    target: str
    changes: ChangeFigures | None
    took: float
    divide: Range | None = None
    repair: Range | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure of this machine.

    Args:
        folder: where writing is measured, with a file that is removed; None for that of temporary files.
        link: bytes a second of the link that passes will have; 0 to leave it out.
    """

    folder: Path | None = None
    link: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigure:
    """One stage by itself, in one thread.

    Args:
        rate: bytes a second of wall clock.
        processor: seconds of processor a byte; for the link at both ends together.
        ratio: bytes left of one, for packing.
        note: for people.
    """

    name: str
    rate: float
    processor: float
    ratio: float
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFigure:
    """What the stages allow a first pass between two such machines, at one level.

    Args:
        level: of compression; None for none.
        rate: bytes of data (not of zeros) a second.
        ratio: bytes on the wire for one.
        bottleneck: ``read``, ``processor`` (the sender's), ``link`` or ``target`` (the receiver's disk or processor).
    """

    level: int | None
    rate: float
    ratio: float
    bottleneck: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What each stage of a pass does here.

    Args:
        source: that was sampled; empty for a sample made for the purpose.
        cores: that this process may use.
        zero_share: of the sample; zeros cost next to nothing and are left out of the stages behind reading.
        passes: by level, from none upwards.
    """

    source: str
    cores: int
    zero_share: float
    stages: tuple[StageFigure, ...]
    passes: tuple[PassFigure, ...]

    @property
    def best(self) -> PassFigure:
        """The level at which data leaves fastest."""
        return max(self.passes, key=lambda figure: figure.rate)
