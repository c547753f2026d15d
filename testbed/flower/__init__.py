"""The testbed's ServerApp and ClientApp on Flower's own runtime (docs/flower.md)."""
