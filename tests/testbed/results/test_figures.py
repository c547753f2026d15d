"""Every figure is declared once: results.json, tables, columns and docs agree with it."""

import inspect
from types import NoneType
from typing import get_args, get_type_hints

import numpy as np
import pytest

from testbed.privacy.scores import score
from testbed.results import schema
from testbed.results.columns import TABLES
from testbed.results.figures import (
    FIGURES,
    GROUPS,
    SCORE_COLUMNS,
    SCORES,
    Place,
    Score,
    directions,
    notes,
    shown_in,
    value_at,
)

EVERY = [figure for group in GROUPS for figure in group]
SCORED = (
    schema.Scores,
    schema.AttackOnClass,
    schema.AttackOnTier,
    schema.AttackOnLink,
    schema.Transfer,
    schema.AmountPoint,
)


def step(part, name):
    """Return the class that an attribute or property of a part holds."""
    member = inspect.getattr_static(part, name, None)
    if isinstance(member, property):
        hint = get_type_hints(member.fget)["return"]
    else:
        hint = get_type_hints(part)[name]
    return next((kind for kind in get_args(hint) if kind is not NoneType), hint)


@pytest.mark.parametrize("figure", EVERY, ids=lambda figure: figure.path)
def test_every_path_leads_to_a_number_of_an_arm(figure):
    part = schema.ArmResult
    for name in figure.path.split("."):
        part = step(part, name)
    assert part is schema.Interval or not hasattr(part, "model_fields")


def test_keys_and_columns_of_the_index_are_unique():
    assert len(FIGURES) == sum(len(group) for group in GROUPS[:4])
    index = [figure.index_key for figure in shown_in("index")]
    assert len(set(index)) == len(index)


def test_every_place_shows_something_and_no_other_is_named():
    assert set().union(*(figure.places for figure in EVERY)) == set(get_args(Place))


def test_columns_that_figures_are_computed_from_are_in_the_tables():
    requests = {column.name for column in TABLES["requests"]}
    attacks = {column.name for column in TABLES["attacks"]}
    for figure in EVERY:
        if not isinstance(figure, Score):
            assert figure.column in requests | {""}
        elif figure.stored:
            assert figure.column in attacks


@pytest.mark.parametrize("part", SCORED)
def test_score_fields_are_the_declared_scores(part):
    keys = [score.key for score in SCORES]
    assert [name for name in part.model_fields if name in keys] == keys
    assert len(part.model_fields) == len(keys) or part is not schema.Scores


def test_every_computed_score_is_declared_and_the_other_way_round():
    images = np.random.default_rng(0).random((3, 1, 16, 16), dtype=np.float32)
    columns = score(images, images[::-1], images, np.arange(3))
    assert list(columns) == list(SCORE_COLUMNS)
    columns["class_recovered"] = np.ones(3, dtype=bool)  # the judge's
    for each in SCORES:
        assert each.values(columns).shape == (3,)
        assert (columns[each.column].dtype == bool) == each.flag


def test_shares_count_the_victims_above_a_threshold():
    columns = {"ssim": np.array([0.4, 0.5, 0.6])}
    share = FIGURES["recognisable_share"]
    assert share.values(columns).tolist() == [0.0, 0.0, 1.0]


def test_a_step_without_a_part_is_unknown():
    assert value_at(None, "edge.macs") is None
    assert value_at(schema.Scores(), "ssim.value") is None


def test_sentences_name_every_score_of_a_table():
    for place in ("headline", "attacks", "compare"):
        for each in SCORES:
            assert (each.label in directions(place)) == (place in each.places)
            assert (f"{each.label}: {each.note}" in notes(place)) == (place in each.places)
