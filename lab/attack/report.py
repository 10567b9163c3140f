"""Verdicts as lines and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.check import Verdict


def line(verdict: Verdict) -> str:
    """One verdict, with what was found wrong."""
    word = "holds" if verdict.holds else "beyond" if verdict.beyond else "FAILS"
    head = (
        f"{word:6} {verdict.transport}/{verdict.workers} {verdict.check.item} {verdict.check.name}: "
        f"{verdict.tried} tried, +{verdict.memory:.0f} MiB, honest {verdict.calls} calls, "
        f"p99 {verdict.p99_before * 1000:.0f} -> {verdict.p99 * 1000:.0f} ms"
    )
    seen = f"    attackers saw {dict(verdict.seen.most_common(6))}" if verdict.seen else ""
    details = [f"    ! {fault}" for fault in verdict.faults] + [f"    {note}" for note in verdict.notes]
    if not verdict.holds and verdict.beyond:
        details.append(f"    beyond the library: {verdict.beyond}")
    return "\n".join([head, *([seen] if seen else []), *details])


def table(verdicts: Sequence[Verdict]) -> str:
    """All verdicts, as Markdown: a row for each check, columns for each way that a server ran."""
    ways = list(dict.fromkeys((one.transport, one.workers) for one in verdicts))
    found = {(one.check.name, one.transport, one.workers): one for one in verdicts}
    checks = list(dict.fromkeys((one.check.item, one.check.name) for one in verdicts))
    titles = [f"{transport}{f', {workers} processes' if workers > 1 else ''}" for transport, workers in ways]
    rows = [f"| item | attack | {' | '.join(titles)} |", "|---" * (len(ways) + 2) + "|"]
    for item, name in checks:
        cells = [_cell(found.get((name, *way))) for way in ways]
        rows.append(f"| {item} | {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if not verdict.holds:
        return "library" if verdict.beyond else "FAILS"
    return f"{verdict.tried:,}, {max(0, round(verdict.memory))} MiB, {verdict.p99 * 1000:.0f} ms"
