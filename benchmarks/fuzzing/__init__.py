"""Generated invalid input for every kind of file that the testbed reads."""
