"""The tests' own order: with several processes, a file's tests stay in one of them."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process for all tests")
def test_the_process_knows_this_file_s_group(request):
    """Which goes by the test's name; where xdist could not write it there, nothing is grouped."""
    assert request.node.nodeid.endswith("@test_groups")
