"""Parts of the attack benchmark: the timed code, and plain loops of the same arithmetic."""
