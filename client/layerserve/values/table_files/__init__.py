"""Readers of columns in CSV and Parquet files, piece by piece, by pyarrow. Used by the command line and the server."""
