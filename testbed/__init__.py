"""SiftFunnel fleet testbed: split inference on a fleet of unlike devices, attacked and measured."""

__version__ = "0.1.0"
