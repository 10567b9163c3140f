"""Files of an object store or of MLflow: addresses, listing, reading and writing. The extension `stores` uses it."""
