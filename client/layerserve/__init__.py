"""Python client of layerserve."""
