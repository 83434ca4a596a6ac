"""Training runs: command line, run folder, checkpoints, loading and publishing."""
