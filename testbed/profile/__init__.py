"""What the edge saves: every front-end on every device, beside the alternatives."""
