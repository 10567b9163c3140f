"""Training and evaluation: options, data, runs with their events, files and curves."""
