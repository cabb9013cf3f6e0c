"""An estimate as one HTML page: no script, nothing from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from blocksync import __version__
from blocksync.estimate.passes import Curve
from blocksync.estimate.plots import bars, curve, stacked
from blocksync.estimate.results import ChangeFigures, EstimateResult, LinkFigures, Range, SourceFigures
from blocksync.estimate.words import milliseconds, rate, seconds, size

LIMITS = {
    "read": "reading the source",
    "processor": "the processors",
    "link": "the link",
    "target": "the receiver's disk or processor",
}

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1c2330;--soft:#5d6878;--line:#d9dee6;
--a:#2f6fdf;--b:#14997e;--c:#d97706;--d:#8b5cf6;--e:#aab4c3}
@media (prefers-color-scheme:dark){:root{--page:#12161d;--card:#1b212b;--text:#e6eaf1;--soft:#9aa6b8;--line:#303947;
--a:#6ea1ff;--b:#3cc9a8;--c:#f5a742;--d:#b69bff;--e:#566274}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:760px;margin:0 auto;padding:28px 16px 40px}
h1{font-size:20px;margin:0 0 2px;overflow-wrap:anywhere}h2{font-size:15px;margin:0 0 10px}
p{margin:6px 0;color:var(--soft)}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;margin-top:14px}
.big{font-size:34px;font-weight:650;color:var(--text);margin:6px 0 0;line-height:1.2}
svg{display:block;width:100%;height:auto;margin:8px 0}
text{fill:var(--text);font-size:12.5px}.label{fill:var(--soft)}
.bars{list-style:none;margin:10px 0 4px;padding:0;font-size:13px}
.bars li{display:grid;grid-template-columns:9.5em 1fr 11em;gap:0 10px;align-items:center;padding:3px 0}
.bars span:first-child{color:var(--soft);text-align:right}.bars span:last-child{font-variant-numeric:tabular-nums}
.track{position:relative;height:16px}.track i{position:absolute;left:0;top:0;height:16px;border-radius:2px}
.track .span{top:4px;height:8px;border:solid var(--text);border-width:0 1.5px;border-radius:0;
background:linear-gradient(var(--text),var(--text)) center/100% 1.5px no-repeat}
@media (max-width:640px){svg{overflow:visible}text{font-size:22px}.spare{display:none}
.bars li{grid-template-columns:1fr auto}.bars span:first-child{text-align:left}.track{grid-row:2;grid-column:1/3}}
.a{fill:var(--a);background:var(--a)}.b{fill:var(--b);background:var(--b)}.c{fill:var(--c);background:var(--c)}
.d{fill:var(--d);background:var(--d)}.e{fill:var(--e);background:var(--e)}
.axis{stroke:var(--line);fill:none}
.line{stroke:var(--a);stroke-width:2;fill:none}.dot{fill:var(--c)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0 0;padding:0;color:var(--soft)}
.legend b{color:var(--text);font-weight:600}
.key{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
"""


def page(result: EstimateResult) -> str:
    """The whole page."""
    cards = "".join(_cards(result))
    title = f"{result.source} to {result.slot} at {result.to}" if result.to else result.source
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>blocksync estimate: {escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>blocksync {__version__}, estimated in {seconds(result.took)}</p>{cards}"
        "</main></body></html>\n"
    )


def _cards(result: EstimateResult) -> Iterator[str]:
    if result.seconds is not None and result.transfer is not None and result.wire is not None:
        yield _card(
            "First pass",
            f'<p class="big">{escape(seconds(result.seconds.likely))}</p>'
            f"<p>{_between(result.seconds)}, limited by {LIMITS[result.bottleneck]}; on the wire "
            f"{size(result.wire.likely)} ({size(result.wire.low)} to {size(result.wire.high)})</p>"
            + _phases(result),
        )
    yield _card("Source", _source(result.figures))
    if result.figures.levels:
        yield _card("Compression", _levels(result.figures))
    if result.link is not None:
        yield _card("Link", _link(result.link))
    if result.changes is not None:
        yield from _changes(result.changes)


def _card(title: str, content: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{content}</section>'


def _between(span: Range) -> str:
    return f"{escape(seconds(span.low))} to {escape(seconds(span.high))}"


def _levels(figures: SourceFigures) -> str:
    rows = [
        (
            "none" if figure.level is None else f"level {figure.level}",
            figure.ratio,
            f"{figure.ratio:.2f}" + (f", {rate(figure.rate)}" if figure.rate else ""),
        )
        for figure in figures.levels
    ]
    return "<p>plain bytes for each byte on the wire, and speed on one thread</p>" + bars(rows, "b")


def _phases(result: EstimateResult) -> str:
    span = result.transfer
    assert span is not None
    phases = [
        ("preparation", result.preparation, seconds(result.preparation), (result.preparation, result.preparation)),
        ("transfer", span.likely, seconds(span.likely), (span.low, span.high)),
        ("commit", result.commit, seconds(result.commit), (result.commit, result.commit)),
    ]
    if result.divide is not None:
        phases.insert(0, _phase("dividing the target", result.divide))
    if result.verify is not None:
        phases.append(_phase("verify, if asked for", result.verify))
    if result.repair is not None:
        phases.append(_phase("repair", result.repair))
    return bars([row[:3] for row in phases], "a", [row[3] for row in phases])


def _phase(name: str, found: Range) -> tuple[str, float, str, tuple[float, float]]:
    return name, found.likely, seconds(found.likely), (found.low, found.high)


def _source(figures: SourceFigures) -> str:
    zero = figures.data * figures.zero_share
    stubborn = figures.data * figures.incompressible_share
    parts = [
        ("shrinks", max(0.0, figures.data - zero - stubborn), "b"),
        ("does not shrink", stubborn, "c"),
        ("zeros", zero, "d"),
        ("unused by filesystems", float(figures.unused), "a"),
        ("holes", float(figures.holes), "e"),
    ]
    said = f"{size(figures.size)}; {size(figures.data)} are read, at {rate(figures.read_rate)}"
    sampled = f"sampled {figures.samples} extents, {size(figures.sampled)}"
    return stacked(parts, size) + f"<p>{said}; {sampled}</p>"


def _link(link: LinkFigures) -> str:
    rows = [(f"{count} connection{'s' if count > 1 else ''}", found, rate(found)) for count, found in link.rates]
    return bars(rows, "a") + f"<p>round trip {milliseconds(link.round_trip)}</p>"


def _changes(found: ChangeFigures) -> Iterator[str]:
    if found.points and found.rate:
        fitted = Curve(rate=found.rate, hot=found.hot)
        tends = "no less at the end" if found.steady else f"up to {size(found.hot)} are written again and again"
        said = (
            f"<p>{rate(found.rate)} at first; {tends}. "
            f"Dots: what differed after so long, in {seconds(found.watched)} of watching, "
            + (
                f"as the source's dirty map told ({escape(found.tracker)})</p>"
                if found.tracker
                else "by samples</p>"
            )
        )
        yield _card("Changes", curve(found.points, fitted.after, seconds, size) + said)
    if found.pause is None:
        return
    rows = [
        (f"pass {number}", following.seconds, f"{seconds(following.seconds)}, {size(following.wire)}")
        for number, following in enumerate(found.passes, 2)
    ]
    rows.append(("last, quiet", found.pause.likely, f"{seconds(found.pause.likely)}"))
    said = f"<p>The source stands still for {_between(found.pause)}."
    if not found.converges:
        said += (
            " Reading and committing alone take so long."
            if found.needed is None
            else f" It gets no shorter on this link; one that carries {rate(found.needed)} would do."
        )
    yield _card("Following passes", bars(rows, "a") + said + "</p>")
