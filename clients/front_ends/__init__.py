"""The edge halves of the models, one family per file."""
