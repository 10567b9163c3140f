"""The command `status`: who serves, and what isn't as usual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone

from layerserve import Client
from layerserve.cli.output import print_json, print_line, print_table
from layerserve.cli.server_commands import on_server
from layerserve.models.info import ModelInfo
from layerserve.models.server_info import ServerInfo
from layerserve.values.tables import Table, count_text, percent_text, time_text

#: States in which a version needs no line.
USUAL = ("ready", "available")
#: What is said of the states of a server.
_STATES = {"draining": "draining, and stops soon", "starting": "starting, and still reads models"}


@on_server
def status(client: Client, as_json: bool) -> None:
    """Show which server answers, since when, and what isn't as usual: pins, canaries, failed and misplaced files.

    JSON: {"address", "server": {"version", "state", "start_time", "host", "process_id", "workers", "transport", "tls",
    "misplaced": {path: expected}}, "models", "versions": {state: number}, "notes": [{"model", "version", "state",
    "notes"}]}. "notes" has the versions that are pinned, a canary, or neither ready nor available.
    """
    server, models = client.server(), client.models()
    noted = [(info, notes) for info in models if (notes := _notes(info))]
    if as_json:
        print_json(
            {
                "address": client.address,
                "server": server,
                "models": len({info.name for info in models}),
                "versions": Counter(info.state for info in models),
                "notes": [
                    {"model": info.name, "version": info.version, "state": info.state, "notes": notes}
                    for info, notes in noted
                ],
            }
        )
        return
    for line in _lines(client.address, server, models):
        print_line(line)
    if noted:
        rows = [(info.name, str(info.version), "\n".join(notes)) for info, notes in noted]
        print_table(Table("Versions with something to know", ("Model", "#Version", "What"), rows))
    if server.misplaced:
        print_table(Table("Not served", ("Path", "Why"), list(server.misplaced.items())))


def _lines(address: str, server: ServerInfo, models: Sequence[ModelInfo]) -> list[str]:
    since = ""
    if server.start_time is not None:
        age = (datetime.now(timezone.utc) - server.start_time).total_seconds()
        since = f"; started {server.start_time.astimezone():%Y-%m-%d %H:%M:%S}, {time_text(max(0.0, age))} ago"
    wire = f"gRPC by {server.transport}, {'with' if server.tls else 'without'} TLS"
    where = f"; host {server.host}, process {server.process_id}" if server.host else ""
    workers = f", {count_text(server.workers, 'worker')}" if server.workers > 1 else ""
    ready = len({info.name for info in models if info.state in USUAL})
    return [
        f"{address}: layerserve {server.version} is {_STATES.get(server.state, server.state)}{since}",
        f"{wire}{where}{workers}",
        f"{count_text(len({info.name for info in models}), 'model')}, {ready} of them ready",
    ]


def _notes(info: ModelInfo) -> list[str]:
    """Returns what isn't as usual with a version."""
    notes = []
    if info.pinned:
        notes.append("pinned: newer versions don't take over")
    if info.canary_share:
        notes.append(f"canary: {percent_text(info.canary_share)} of callers get it")
    if info.state == "unloading":
        notes.append("draining: it finishes its requests")
    elif info.state not in USUAL:
        notes.append(f"{info.state}: {info.reason}" if info.reason else info.state)
    elif info.reason:
        notes.append(info.reason)
    return notes
