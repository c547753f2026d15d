"""What whole runs take: time and memory of all their processes, and of one idle device."""
