"""An attack reports its error on its own validation images, and asks nothing more for it."""

from dataclasses import replace

import numpy as np
import pytest

from testbed.adversaries.mounting import mount

BRIEF = {"max_epochs": 2, "min_epoch_steps": 1}


def validated(case, name, options):
    """Return what an attack reports, and its images of the validation images' features."""
    images = case.evidence.auxiliary_validation.images
    shown = case.oracle.query(images, 0)
    case.oracle.queries.clear()
    found = mount(name, options, replace(case.evidence, apply_to={"validation": shown}), 0)
    asked = sum(count for count, _ in case.oracle.queries)
    assert found.queries == asked
    return found, float(np.square(found.applied["validation"] - images).mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ridge", {}),
        ("kernel_ridge", {"variations": [0]}),
        ("residual_decoder", BRIEF),
        ("averaged_decoder", {**BRIEF, "capacity": "small", "batch_size": 8}),
    ],
)
def test_it_is_the_error_on_the_validation_images(build_case, front_ends, name, options):
    found, error = validated(build_case(front_ends["pooled"]), name, options)
    assert found.validation_mse == pytest.approx(error, rel=1e-4)


def test_a_search_lowers_its_starts_error_by_the_ratio_on_the_images_of_tuning(
    build_case, front_ends
):
    case = build_case(front_ends["pooled"])
    options = {"start": "mean_image", "prior": "total_variation", "restarts": 1, "steps": 40}
    whole = {**options, "tuning_images": 16}  # all of them: then it is the error itself
    found, error = validated(case, "white_box", whole)
    assert found.validation_mse == pytest.approx(error, rel=1e-3)
    few, error = validated(case, "white_box", {**options, "tuning_images": 8})
    assert few.validation_mse == pytest.approx(error, rel=0.3)


def test_attacks_without_queries_have_none(build_case, front_ends):
    assert (
        mount("mean_image", {}, build_case(front_ends["pooled"]).evidence, 0).validation_mse is None
    )
