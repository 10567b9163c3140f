"""Models -> files that stock Keras opens; and where in a file each weight lies."""
