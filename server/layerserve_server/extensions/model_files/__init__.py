"""The commands `layerserve inspect` and `convert`, which read a model file and need no server."""
