"""The layerserve server."""
