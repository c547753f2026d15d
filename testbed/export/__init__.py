"""Finished runs for other tools: TensorBoard and MLflow, from the results folder alone."""
