"""With several worker processes, all tests of a group run in one worker."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all tests run in one process")
def test_the_group_is_part_of_the_test_id(request):
    """xdist reads the group from the id; without it, nothing is grouped."""
    assert request.node.nodeid.endswith("@test_groups")
