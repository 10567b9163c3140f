"""Readers of open data files, arrays and tables, wherever they lie."""
