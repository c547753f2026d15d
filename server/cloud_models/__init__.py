"""The cloud halves of the models, one family per file."""
