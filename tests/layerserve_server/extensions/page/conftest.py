"""Tests of the page import their stand-in from this folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
