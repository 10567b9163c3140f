"""Scores the rows of Parquet files: score.py SOURCE MODEL ROWS SCORED.

SOURCE is a repository or the address of a server, ROWS and SCORED are folders. SCORED must not exist yet.
"""

import sys

import ray
from layerserve import Scorer

source, model, rows, scored = sys.argv[1:]
# The version is fixed here. `columns` are kept, such as the keys of rows.
scorer = Scorer(source, model, columns=["id"])
print(f"{scorer.model} version {scorer.version}, SHA-256 {scorer.digest}")
scorer.ray(ray.data.read_parquet(rows), concurrency=(1, 64)).write_parquet(scored, mode="error")
