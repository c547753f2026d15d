"""A folder of parquet files as data: its section of a scenario, its images, or its refusal."""

import pytest

from testbed.core.errors import UserError
from testbed.data.federated import load_pool
from testbed.scenario.schema import DataSection


def section(folder, **options):
    return DataSection(name="parquet_folder", path=str(folder), options=options)


def load(folder, **options):
    return load_pool(section(folder, **options))


def refusal(folder, **options):
    with pytest.raises(UserError) as caught:
        load(folder, **options)
    return str(caught.value)
