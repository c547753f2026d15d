"""Training: on the fleet, at the provider, checkpoints and kept models."""
