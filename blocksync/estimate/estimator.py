"""An estimate from beginning to end: sample, probe the link, rehearse, predict; and watch where that is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable

from blake3 import blake3

from blocksync.engine.cancel import Cancel
from blocksync.engine.outlook import outlook_of
from blocksync.engine.reach import Reach
from blocksync.engine.rehearsal import MAX_REHEARSAL_BYTES
from blocksync.errors import NetworkError, from_os_error
from blocksync.estimate.digesting import digesting
from blocksync.estimate.mapped import ChangeMap
from blocksync.estimate.packing import level_table, levels_used, packed_at
from blocksync.estimate.passes import by_map, changes, fit, pace_of
from blocksync.estimate.prediction import SHARED_ERROR, Packed, Prediction, around, predict
from blocksync.estimate.rehearsal import Rehearsal, rehearse
from blocksync.estimate.results import (
    ChangeFigures,
    EstimateOptions,
    EstimateResult,
    LinkFigures,
    Range,
    SourceFigures,
)
from blocksync.estimate.sampling import Picture, Sample, Sampler, picture_of
from blocksync.estimate.trial import TrialDisk, noise, trial_content
from blocksync.estimate.watching import Watcher
from blocksync.options import SendOptions
from blocksync.platforms.dialing import Dialing, Watching
from blocksync.results import Progress
from blocksync.sources.base import Source

MIB = 1 << 20
PROBE_SECONDS = 1.5
REHEARSAL_SECONDS = 8.0
# What a trial's disk may be larger than what its seconds seem to need; what is left over is read as zeros.
RESERVE = 1.5
LEAST_TRIAL_BYTES = 64 * MIB
CONNECT_SECONDS = 5.0
ROUND_TRIPS = 5
VERIFY_ERROR = 0.25
HASHED_BYTES = 16 * MIB


class Estimator:
    """One estimate.

    Args:
        source: open.
        reach: to the receiver; None to sample only.
        options: of the caller.
        cancel: stops it.
    """

    def __init__(self, source: Source, reach: Reach | None, options: EstimateOptions, cancel: Cancel) -> None:
        self._source = source
        self._reach = reach
        self._options = options
        self._cancel = cancel
        self._chance = random.Random(options.seed)  # noqa: S311 - chooses places, keeps no secret
        self._began = time.monotonic()

    def run(self) -> EstimateResult:
        """Measure and predict.

        Raises:
            BlocksyncError: what was to be measured cannot be.
        """
        self._tell("sampling")
        sample = Sampler(self._source, self._options.connections, self._cancel, self._chance).run()
        figures = figures_of(sample)
        link = rehearsal = prediction = packed = None
        generation = 0
        if self._reach is not None:
            generation = self._generation(self._reach)
            link = self._probe(self._reach)
            self._cancel.check()
            if sample.pieces:
                rehearsal = self._rehearse(self._reach, sample, figures, link)
                packed = packed_at(sample, levels_used(rehearsal), adapts=self._options.level is None)
                prediction = self._predict(sample, packed, rehearsal, link)
                self._keep(self._reach, rehearsal, sample, prediction)
        changing = None
        if self._options.watch and sample.pieces:
            points, found = self._watch(sample)
            # What was a hole may be none any more: the pass and the verify read what there is by then.
            sample.picture = picture_of(self._source)
            figures = _renewed(figures, sample.picture)
            if link is not None and rehearsal is not None and packed is not None:
                prediction = self._predict(sample, packed, rehearsal, link)
            changing = self._changing(points, found, sample, link, rehearsal, prediction)
            if self._reach is not None and rehearsal is not None and prediction is not None:
                self._keep(self._reach, rehearsal, sample, prediction, changing)
        return self._result(figures, sample, link, rehearsal, prediction, generation, changing)

    # -- stages -----------------------------------------------------------------------------------------------

    def _generation(self, reach: Reach) -> int:
        with self._cancel.watching(reach.control.abort):
            slots = reach.control.status().get("slots")
        if not isinstance(slots, dict):
            return 0
        slot = slots.get(self._options.slot) or (next(iter(slots.values())) if len(slots) == 1 else {})
        found = slot.get("generation") if isinstance(slot, dict) else 0
        return found if isinstance(found, int) else 0

    def _probe(self, reach: Reach) -> LinkFigures:
        self._tell("probing")
        trip = round_trip(*reach.address, self._cancel.watching)
        content = noise(self._chance)
        rates: list[tuple[int, float]] = []
        fastest = 0.0
        for connections in sorted({1, 2, self._options.connections}):
            self._cancel.check()
            size = _trial_size(fastest * 3, PROBE_SECONDS)
            disk = TrialDisk(content, size, PROBE_SECONDS)
            measured = self._rehearsed(reach, disk, connections, level=0)
            rates.append((measured.connections, measured.link_rate))
            fastest = max(fastest, measured.link_rate)
            if measured.connections < connections:
                break
        return LinkFigures(round_trip=trip, rates=tuple(rates))

    def _rehearse(self, reach: Reach, sample: Sample, figures: SourceFigures, link: LinkFigures) -> Rehearsal:
        self._tell("rehearsing")
        content = trial_content(sample.pieces, self._chance)
        disk = TrialDisk(
            content, _trial_size(_fastest(sample, figures, link), REHEARSAL_SECONDS), REHEARSAL_SECONDS
        )
        return self._rehearsed(reach, disk, self._options.connections, level=self._options.level, verify=True)

    def _rehearsed(
        self, reach: Reach, disk: TrialDisk, connections: int, *, level: int | None, verify: bool = False
    ) -> Rehearsal:
        options = SendOptions(
            to=self._options.to,
            slot=self._options.slot,
            connections=connections,
            level=level,
            bwlimit=self._options.bwlimit,
        )
        with contextlib.closing(disk), reach.rehearsal_route() as route:
            return rehearse(route, disk, options, self._cancel, verify=verify)

    def _predict(self, sample: Sample, packed: Packed, rehearsal: Rehearsal, link: LinkFigures) -> Prediction:
        return predict(
            sample.picture,
            packed,
            rehearsal,
            read_rate=sample.read_rate,
            link=min(link.best, self._options.bwlimit or link.best),
        )

    def _keep(
        self,
        reach: Reach,
        rehearsal: Rehearsal,
        sample: Sample,
        prediction: Prediction,
        changing: ChangeFigures | None = None,
    ) -> None:
        outlook = outlook_of(
            prediction.seconds.span,
            source_identity=self._source.identity,
            size=self._source.size,
            passes=tuple(each.seconds for each in changing.passes) if changing else (),
            pause=changing.pause.span if changing and changing.pause else (),
            verify=_verify(sample, rehearsal).span,
        )
        reach.outlooks().save(rehearsal.slot, outlook)

    def _watch(self, sample: Sample) -> tuple[list[tuple[float, float]], ChangeMap | None]:
        """What changed, and the dirty map that told it, if one did."""
        watched = self._options.watch
        self._tell("watching")
        watcher = Watcher(
            self._source,
            sample.pieces,
            self._cancel,
            say=lambda message: self._tell("watching", message),
        )
        points = watcher.run(
            watched, lambda age: self._tell("watching", f"{min(age, watched):.0f} of {watched:.0f} s")
        )
        return points, watcher.map

    def _changing(
        self,
        points: list[tuple[float, float]],
        found: ChangeMap | None,
        sample: Sample,
        link: LinkFigures | None,
        rehearsal: Rehearsal | None,
        prediction: Prediction | None,
    ) -> ChangeFigures:
        watched = self._options.watch
        tracker = found.provider if found is not None else ""
        if link is None or rehearsal is None or prediction is None:
            curve = fit(points, sample.picture.data)
            return ChangeFigures(
                watched=watched,
                points=tuple(points),
                rate=curve.rate,
                hot=curve.hot,
                passes=(),
                converges=False,
                pause=None,
                needed=None,
                tracker=tracker,
            )
        pace = pace_of(sample, rehearsal, prediction, link.best, digesting(sample, rehearsal.connections))
        return changes(
            points,
            watched,
            by_map(pace, found, points),
            prediction.seconds.likely,
            prediction.wire.likely,
            self._options.pause,
            error=prediction.seconds.high / max(prediction.seconds.likely, 1e-9) - 1.0,
            tracker=tracker,
        )

    # -- the result -------------------------------------------------------------------------------------------

    def _result(
        self,
        figures: SourceFigures,
        sample: Sample,
        link: LinkFigures | None,
        rehearsal: Rehearsal | None,
        prediction: Prediction | None,
        generation: int,
        changing: ChangeFigures | None,
    ) -> EstimateResult:
        return EstimateResult(
            source=self._source.name,
            slot=rehearsal.slot if rehearsal else self._options.slot,
            to=self._options.to if self._reach else "",
            generation=generation,
            figures=figures,
            link=link,
            seconds=prediction.seconds if prediction else None,
            preparation=prediction.preparation if prediction else 0.0,
            transfer=prediction.transfer if prediction else None,
            commit=prediction.commit if prediction else 0.0,
            verify=_verify(sample, rehearsal) if prediction else None,
            wire=prediction.wire if prediction else None,
            rate=prediction.rate if prediction else 0.0,
            bottleneck=prediction.bottleneck if prediction else "",
            level=rehearsal.moments[-1].level if rehearsal else None,
            target=rehearsal.target if rehearsal else "",
            changes=changing,
            took=time.monotonic() - self._began,
        )

    def _tell(self, stage: str, message: str = "") -> None:
        report: Callable[[Progress], None] | None = self._options.progress
        if report is not None:
            report(Progress(stage=stage, slot=self._options.slot, size=self._source.size, message=message))


def figures_of(sample: Sample) -> SourceFigures:
    """The samples as an estimate's result tells them."""
    picture = sample.picture
    return SourceFigures(
        size=picture.size,
        holes=picture.holes,
        unused=picture.unused,
        data=picture.data,
        samples=len(sample.pieces),
        sampled=sample.sampled,
        zero_share=sample.share(lambda piece: piece.zero),
        incompressible_share=sample.share(lambda piece: piece.incompressible),
        read_rate=sample.read_rate,
        levels=level_table(sample),
    )


def _renewed(figures: SourceFigures, picture: Picture) -> SourceFigures:
    """The same samples of a source that has grown into its holes meanwhile."""
    return dataclasses.replace(figures, data=picture.data, holes=picture.holes, unused=picture.unused)


def round_trip(host: str, port: int, watching: Watching) -> float:
    """Seconds that a connection to the control port takes: one round trip; the median of some.

    Args:
        watching: gives it up.

    Raises:
        NetworkError: nobody answers.
    """
    trips = []
    for _ in range(ROUND_TRIPS):
        dialing = Dialing(host, port)
        began = time.perf_counter()
        try:
            with contextlib.closing(dialing), watching(dialing.abort):
                dialing.reach(CONNECT_SECONDS)
        except OSError as error:
            raise from_os_error(error, NetworkError, f"the control port {host}:{port} cannot be reached") from error
        trips.append(time.perf_counter() - began)
    return statistics.median(trips)


def _trial_size(rate: float, seconds: float) -> int:
    """A disk that lasts for the seconds at that rate with a reserve; the largest one where no rate is known."""
    wanted = int(rate * seconds * RESERVE) or MAX_REHEARSAL_BYTES
    return max(LEAST_TRIAL_BYTES, min(wanted, MAX_REHEARSAL_BYTES)) // MIB * MIB


def _fastest(sample: Sample, figures: SourceFigures, link: LinkFigures) -> float:
    """Bytes of the disk a second that cannot be exceeded: what the link carries, shrunk as well as it can be."""
    stubborn = sample.share(lambda piece: piece.incompressible)
    shrinking = 1.0 - stubborn - sample.share(lambda piece: piece.zero)
    ratio = max((figure.ratio for figure in figures.levels), default=1.0)
    return link.best / max(stubborn + shrinking / ratio, 0.02)


def _verify(sample: Sample, rehearsal: Rehearsal | None) -> Range:
    """As it was tried; else by this end alone, which reads a piece, then hashes it."""
    if rehearsal is not None and rehearsal.proof is not None:
        error = math.hypot(VERIFY_ERROR, SHARED_ERROR * rehearsal.foreign)
        likely, least, most = rehearsal.proof.span(sample.picture, sample.alone_rate)
        found = around(likely, error)
        return Range(likely=likely, low=min(found.low, least), high=max(found.high, most))
    content = b"".join(piece.content for piece in sample.pieces)[:HASHED_BYTES]
    began = time.perf_counter()
    blake3(content).digest()
    hashing = (time.perf_counter() - began) / max(len(content), 1)
    return around(sample.picture.compared * (hashing + 1 / max(sample.alone_rate, 1.0)), VERIFY_ERROR)
