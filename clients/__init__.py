"""The device: front-ends, defences, and the handlers of the Flower ClientApp."""
