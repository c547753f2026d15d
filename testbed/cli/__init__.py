"""Output of the command line: progress, tables, listings, the dry run, blocks of docs."""
