"""Parts of the fault campaign: the faults, the supervised runs, and the table of outcomes."""
