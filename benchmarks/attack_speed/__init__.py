"""Parts of the benchmark of the attacks: what is timed, and plain loops of the same arithmetic."""
