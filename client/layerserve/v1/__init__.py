"""Stubs of the contract in `proto/layerserve/v1`, made by `make proto`."""
