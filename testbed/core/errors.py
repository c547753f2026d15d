"""Errors that are meant to be read by the person who runs the testbed."""


class UserError(Exception):
    """Bad input, said in one clear sentence; the command line prints it and exits with code 2."""


class HostError(Exception):
    """A host or adversary process failed; the command line prints it and exits with code 1."""
