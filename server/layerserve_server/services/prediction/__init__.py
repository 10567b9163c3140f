"""layerserve.v1.PredictionService: arrays in, arrays out."""
