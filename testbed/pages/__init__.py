"""The parts that all HTML pages, figures and generated documents share."""
