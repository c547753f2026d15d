"""Speed of the fleet engine against peers and against the arithmetic alone."""
