"""Datasets: data that is uploaded once and then used by any number of runs."""
