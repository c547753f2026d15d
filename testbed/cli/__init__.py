"""What the command line shows: progress, listings, the dry run, and where the logs go."""
