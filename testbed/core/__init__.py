"""The base of every other package: errors, registries, seeds, files, settings of processes."""
