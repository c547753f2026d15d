"""Parts of the fault campaign: faults to inject, runs to watch, and the table of what happened."""
