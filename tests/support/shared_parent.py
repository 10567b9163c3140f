"""A warm parent for the servers of several tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from layerserve_server.training.process.warm_parent import WarmParent


class SharedParent(WarmParent):
    """Stays when one of its users closes it."""

    def close(self) -> None:
        """Does nothing: others use it too."""

    def end(self) -> None:
        """Ends the process."""
        super().close()


@contextmanager
def used(parent: SharedParent) -> Iterator[None]:
    """Gives this warm parent to servers that are made in the context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerserve_server.app.WarmParent", lambda *_, **__: parent)
        yield
