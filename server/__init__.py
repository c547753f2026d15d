"""The cloud: cloud halves, strategies, the split-federated ServerApp and the serving queue."""
