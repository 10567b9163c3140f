"""How much a model file may ask for."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """Budgets of loading. The defaults are far above any real model; what exceeds one is refused before it costs.

    config_bytes        bytes of a config's JSON text
    config_values       values (and containers) in one config
    config_depth        JSON nesting of one config
    nesting             models and wrapped layers inside one another
    layers              layers of one file, nested ones included
    nodes               calls of layers in one file
    calls               calls of layers that repeat because nested models are called more than once
    name_length         characters of a layer's name
    directory_bytes     a zip's table of contents
    weight_bytes        all weights of a model
    activation_bytes    what one row takes in one call of a layer, as far as its shape is known
    inflation           how many times larger than its stored form data may become, beyond `inflation_floor`
    inflation_floor     bytes that any file may become, however small it is
    names               entries of one list of names in HDF5
    """

    config_bytes: int = 32 * MIB
    config_values: int = 2_000_000
    config_depth: int = 320
    nesting: int = 64
    layers: int = 100_000
    nodes: int = 1_000_000
    calls: int = 30_000
    name_length: int = 4096
    directory_bytes: int = 1 * MIB
    weight_bytes: int = 256 * GIB
    activation_bytes: int = 8 * GIB
    inflation: int = 64
    inflation_floor: int = 64 * MIB
    names: int = 200_000

    def inflated_bytes(self, stored_bytes: int) -> int:
        """The most bytes that `stored_bytes` may become in memory."""
        return min(self.weight_bytes, self.inflation_floor + self.inflation * stored_bytes)


DEFAULT_LIMITS = LoadLimits()
