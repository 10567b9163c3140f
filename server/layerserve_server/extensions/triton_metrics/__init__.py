"""The server's metrics under the names that Triton gives to its own, for existing dashboards."""
