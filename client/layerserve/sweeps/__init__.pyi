from .api import AsyncSweep
from .blocking import Sweep
from .sweep import Range, SweepInfo, Trial

__all__ = ["AsyncSweep", "Range", "Sweep", "SweepInfo", "Trial"]
