"""What can be watched of a receiver: ``/healthz``, ``/metrics`` (Prometheus' format), ``/status.json``, and a page.

The same four are served to paired peers on the control port, who see their own slots, and in the clear on a loopback
address of the operator's choice. Nothing can be changed through them. The page is one file without outside
resources; its policy forbids the browser to load any.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web

PAGE = Path(__file__).with_name("status.html")
METRICS_TYPE = "text/plain; version=0.0.4"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

# name: (type, help, field of a slot's view)
SLOT_METRICS: dict[str, tuple[str, str, str]] = {
    "blocksync_slot_size_bytes": ("gauge", "Size of the slot's target.", "size"),
    "blocksync_slot_known_bytes": ("gauge", "Bytes whose digests the slot's manifest holds.", "known"),
    "blocksync_slot_generation": ("gauge", "Committed generation.", "generation"),
    "blocksync_slot_pass_open": ("gauge", "1 while a pass is begun and not committed.", "pass_open"),
    "blocksync_slot_busy": ("gauge", "1 while a sender holds the slot.", "busy"),
    "blocksync_slot_verifying": ("gauge", "1 while the slot is being verified.", "verifying"),
    "blocksync_slot_failed": ("gauge", "1 while the target or its state cannot be used.", "failed"),
    "blocksync_slot_connections": ("gauge", "Data connections.", "connections"),
    "blocksync_slot_durable_bytes_total": ("counter", "Bytes made durable since the start.", "durable_total"),
    "blocksync_slot_passes_total": ("counter", "Passes committed since the start.", "passes"),
    "blocksync_slot_last_commit_timestamp_seconds": (
        "gauge",
        "When a pass was last committed since the start; 0 for none.",
        "last_commit",
    ),
}

Look = Callable[[web.Request], Awaitable[dict[str, Any]]]


def metrics(view: dict[str, Any]) -> str:
    """A view in Prometheus' text format, which asks for a HELP and a TYPE before the samples of each metric."""
    lines = [
        "# HELP blocksync_info The version that runs.",
        "# TYPE blocksync_info gauge",
        f'blocksync_info{{version="{_label(view["version"])}"}} 1',
        "# HELP blocksync_start_time_seconds When the receiver was started.",
        "# TYPE blocksync_start_time_seconds gauge",
        f"blocksync_start_time_seconds {view['started']:.3f}",
    ]
    if view.get("memory"):
        lines += [
            "# HELP process_resident_memory_bytes Resident memory.",
            "# TYPE process_resident_memory_bytes gauge",
            f"process_resident_memory_bytes {view['memory']}",
        ]
    for name, (kind, text, field) in SLOT_METRICS.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for slot in view["slots"]:
            value = slot[field]
            shown = f"{value:.3f}" if isinstance(value, float) else str(int(value))
            lines.append(f'{name}{{slot="{_label(slot["slot"])}"}} {shown}')
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def is_healthy(view: dict[str, Any]) -> bool:
    """Whether every slot can be sent to."""
    return not any(slot["failed"] for slot in view["slots"])


def is_local(host: str) -> bool:
    """Whether a Host header names this machine's loopback: other names may be an attack on the browser (rebinding)."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name == "localhost" or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Whether it is an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def watching_routes(look: Look) -> list[web.RouteDef]:
    """The four routes.

    Args:
        look: gives what whoever asks may see; raises where that is nothing.
    """

    async def healthz(request: web.Request) -> web.Response:
        healthy = is_healthy(await look(request))
        return web.json_response({"healthy": healthy}, status=200 if healthy else 503)

    async def prometheus(request: web.Request) -> web.Response:
        body = metrics(await look(request)).encode()
        return web.Response(body=body, headers={"Content-Type": f"{METRICS_TYPE}; charset=utf-8"})

    async def status(request: web.Request) -> web.Response:
        return web.json_response(await look(request), headers={"Cache-Control": "no-store"})

    async def page(request: web.Request) -> web.Response:
        await look(request)
        return web.Response(body=_page(), content_type="text/html", charset="utf-8", headers=_HEADERS)

    return [
        web.get("/healthz", healthz),
        web.get("/metrics", prometheus),
        web.get("/status.json", status),
        web.get("/", page),
    ]


@lru_cache(maxsize=1)
def _page() -> bytes:
    return PAGE.read_bytes()
