"""The order in which the jobs of an arm's adversaries start."""

from testbed.engine.attacking.attacks import longest_first
from testbed.results.host_facts import AttackCost


def _cost(arm, adversary, cpu_s):
    return AttackCost(arm=arm, adversary=adversary, attack="ridge", cpu_s=cpu_s)


def test_the_longest_of_earlier_arms_start_first_and_unknown_ones_before_them():
    earlier = [_cost("a", "short", 1.0), _cost("a", "long", 5.0), _cost("b", "short", 1.5)]
    jobs = [("short", 1.0), ("long", 1.0), ("new", 1.0), ("long", 0.25), ("newer", 1.0)]
    assert longest_first(jobs, earlier) == [2, 4, 1, 0, 3]


def test_the_first_arm_keeps_the_order_of_the_scenario():
    assert longest_first([("one", 1.0), ("two", 1.0), ("one", 0.5)], []) == [0, 1, 2]
