"""Front-ends, the device halves of the models; one family per file."""
