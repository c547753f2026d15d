"""Time and memory of whole runs with all their processes, and of one idle device."""
