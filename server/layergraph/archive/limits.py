"""Limits on the resources that loading a model file may take."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """Limits of loading. The defaults are far above any real model; what exceeds one is rejected at little cost.

    config_bytes        size of a config's JSON text, in bytes
    config_values       number of values (and containers) in one config
    config_depth        JSON nesting depth of one config
    nesting             nesting depth of models and wrapped layers
    layers              number of layers in one file, including nested ones
    nodes               number of calls of layers in one file
    calls               number of repeated calls of layers, in nested models that are called more than once
    name_length         number of characters of a layer's name
    asset_bytes         size of all assets of a `.keras`, such as vocabularies
    directory_bytes     size of a zip's central directory
    weight_bytes        size of all weights of a model
    activation_bytes    memory for one row in one call of a layer, as far as its shape is known
    inflation           ratio of a file's data in memory to the stored size, beyond `inflation_floor`
    inflation_floor     size of data in memory that is allowed for files of any size
    names               number of entries of one list of names in HDF5
    """

    config_bytes: int = 32 * MIB
    config_values: int = 2_000_000
    config_depth: int = 320
    nesting: int = 64
    layers: int = 100_000
    nodes: int = 1_000_000
    calls: int = 30_000
    name_length: int = 4096
    asset_bytes: int = 128 * MIB
    directory_bytes: int = 1 * MIB
    weight_bytes: int = 256 * GIB
    activation_bytes: int = 8 * GIB
    inflation: int = 64
    inflation_floor: int = 64 * MIB
    names: int = 200_000

    def inflated_bytes(self, stored_bytes: int) -> int:
        """Maximum size in memory of data that takes `stored_bytes` in a file."""
        return min(self.weight_bytes, self.inflation_floor + self.inflation * stored_bytes)


DEFAULT_LIMITS = LoadLimits()
