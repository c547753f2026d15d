"""The simulated devices: catalogue, cost model, links, availability, sampling."""
