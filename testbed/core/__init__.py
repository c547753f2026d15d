"""What every other package builds on: errors, registries, seeds and the scenario schema."""
