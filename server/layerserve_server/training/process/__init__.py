"""Child processes of runs: how the server starts and monitors them, and the programs that they run."""
