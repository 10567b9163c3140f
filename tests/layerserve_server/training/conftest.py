"""What dry runs, trials and runs are forked by."""

from __future__ import annotations

import pytest
from layerserve_server.training.process.warm_parent import WarmParent


@pytest.fixture(scope="session")
def parent(warm_parent: WarmParent) -> WarmParent:
    return warm_parent
