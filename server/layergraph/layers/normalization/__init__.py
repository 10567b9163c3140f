"""Normalization layers. Read `weights` (scale and shift), then `statistics` (of a row), then `batch` (of a batch)."""
