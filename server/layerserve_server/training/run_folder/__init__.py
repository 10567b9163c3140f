"""What is in the folder of a run: names, files, results, checkpoints, and what calls have set. Without processes."""
