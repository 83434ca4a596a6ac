"""What a run leaves on disk: folder, checkpoints, command line, loading."""
