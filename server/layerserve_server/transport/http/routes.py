"""Which route answers a path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from layerserve_server.transport.http.exchange import HttpRoute, Plain

#: Maximum number of paths whose routes are kept.
MAX_KEPT = 256


class Found(NamedTuple):
    """What answers a path: a reply that every caller may read, or routes by verb; neither if there is no such path."""

    plain: Plain | None = None
    verbs: Mapping[str, HttpRoute] = {}
    #: Parts of the path by the names that the route has for them.
    names: Mapping[str, str] = {}


class HttpRoutes:
    """Finds what answers a path: of several, the one with the fewest names in braces."""

    def __init__(self, routes: Sequence[HttpRoute], plain: Mapping[str, Plain]) -> None:
        by_path: dict[str, dict[str, HttpRoute]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.verb] = route
        self._routes = [(_pattern(path), Found(verbs=verbs)) for path, verbs in sorted(by_path.items(), key=_names)]
        self._routes += [(_pattern(path), Found(make)) for path, make in plain.items()]
        self.find = lru_cache(MAX_KEPT)(self._find)

    def _find(self, path: str) -> Found:
        for pattern, found in self._routes:
            if match := pattern.fullmatch(path):
                return found._replace(names=match.groupdict())
        return Found()


def _names(route: tuple[str, object]) -> int:
    return route[0].count("{")


def _pattern(path: str) -> re.Pattern[str]:
    """Returns the pattern of a path, whose parts in braces stand for any text without "/"."""
    parts = re.split(r"\{(\w+)\}", path)
    texts = [re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/]+)" for index, part in enumerate(parts)]
    return re.compile("".join(texts))
