"""A warm parent for the servers of several tests."""

from __future__ import annotations

from layerserve_server.training.process.warm_parent import WarmParent


class SharedParent(WarmParent):
    """Stays when one of its users closes it."""

    def close(self) -> None:
        """Does nothing: others use it too."""

    def end(self) -> None:
        """Ends the process."""
        super().close()
