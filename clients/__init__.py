"""What would run on a device: front-ends, defences, and the handlers of the Flower ClientApp."""
