"""What holds for all tests."""

import os

# Servers of tests compute on torch, call by call, but for those that test tuning: timing engines takes seconds.
os.environ.setdefault("LAYERSERVE_TUNING_SECONDS", "0")
# Most servers of tests never train: what trains imports torch when it is first needed.
os.environ.setdefault("LAYERSERVE_WARM_TRAINING", "false")
