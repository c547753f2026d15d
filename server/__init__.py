"""The cloud: cloud models, strategies, the split-federated ServerApp, and serving."""
