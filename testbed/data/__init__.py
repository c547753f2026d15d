"""Images: loading, disjoint hashed splits, and partitions over devices."""
