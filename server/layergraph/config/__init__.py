"""Any Keras generation's config, turned into one canonical graph."""
