"""Every job in the table can be called, in the process that it is meant for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from layerserve_server.jobs import table
from layerserve_server.jobs.table import Job


@pytest.mark.parametrize("job", table.JOBS, ids=lambda job: job.function)
def test_the_function_of_a_job_exists(job: Job) -> None:
    assert callable(getattr(importlib.import_module(job.module), job.function.partition(":")[2]))


def test_the_cold_process_imports_all_its_jobs_and_no_torch() -> None:
    program = """
import sys
from layerserve_server.jobs import program, table
program.prepare(warm=False)
missing = [job.module for job in table.JOBS if not job.warm and job.module not in sys.modules]
print(missing, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"
