"""Export of finished runs to TensorBoard and MLflow, from the results folder alone."""
