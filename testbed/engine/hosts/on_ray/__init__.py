"""On ray."""
