"""Input files of users: scenarios, sweeps, catalogues, traces, latencies and images."""

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st
from PIL import Image

from fuzzing.hostile import HOSTILE_YAML
from fuzzing.mutations import damaged_bytes, damaged_tables, damaged_trees, junk
from fuzzing.targets import Target, json_bytes, yaml_bytes
from testbed.data.federated import load_pool
from testbed.engine.setting.run_context import check_components, read_fleet
from testbed.fleet.availability_traces import read_traces
from testbed.fleet.calibration.published import Measurement
from testbed.fleet.catalogue import CATALOGUE_PATH, CatalogueDevice
from testbed.fleet.table import read_table
from testbed.scenario.loading import load_scenario
from testbed.scenario.schema import DataSection
from testbed.sweep.grid import MAX_POINTS, expand_files

SIZE_PX = 16  # of images in parquet files
LARGEST_FLEET = 2000
"""Fleets of more devices are valid, and drawing them takes longer than it tells."""
SWEEPS: tuple[dict[str, Any], ...] = (
    {"seed": [0, 1]},
    {"training": {"rounds": [1, 2]}, "fleet.size": [4, 30]},
    {"arms.0.defence": ["none", {"name": "gaussian_noise", "scale": 0.2}], "seed": [3]},
    {"description": ["a b", "a/b", ".."], "data.max_images": [100]},
)


def _read_scenario(path: Path) -> None:
    scenario = load_scenario(path)
    names = [scenario.name, *(arm.name for arm in scenario.arms)]
    names += [adversary.name for adversary in scenario.adversaries]
    for name in names:  # they become folders and files
        check_name(name)
    if scenario.fleet.size <= LARGEST_FLEET:
        fleet, _ = read_fleet(scenario)
        check_components(scenario, len(fleet))


def _read_sweep(path: Path) -> None:
    points = expand_files([path], [])
    assert 0 < len(points) <= MAX_POINTS
    names = [point.name for point in points]
    assert len(set(names)) == len(names)
    for name in names:
        check_name(name)


def check_name(name: str) -> None:
    """Fail if a name used as a file or folder leaves its parent folder."""
    assert name == Path(name).name, f"{name!r} leaves the results folder"
    assert name not in ("", ".", ".."), f"{name!r} is no name of a file"


def _traces() -> bytes:
    rng = np.random.default_rng(0)
    traces = {}
    for device in range(4):
        times = np.sort(rng.integers(1, 86_000, 6)).tolist()
        traces[str(device)] = {
            "active": times[::2],
            "inactive": times[1::2],
            "finish_time": 86_400,
            "model": "CPH1801",
        }
    return json.dumps(traces).encode()


def sound_parquet(rows: int = 12) -> bytes:
    """Return a parquet file of images and labels that the reader accepts."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(rows):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)).save(
            file, "PNG"
        )
        encoded.append({"bytes": file.getvalue(), "path": None})
    table = pa.table({"image": encoded, "label": [row % 3 for row in range(rows)]})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@st.composite
def _strange_parquet(draw: st.DrawFn) -> bytes:
    """Return a valid parquet file whose columns hold unexpected types."""
    rows = draw(st.integers(0, 4))
    image = st.one_of(
        st.binary(max_size=40),
        st.none(),
        st.sampled_from((b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff")),
    )
    column = draw(
        st.sampled_from(
            (
                [{"bytes": draw(image), "path": "x"} for _ in range(rows)],
                [draw(image) for _ in range(rows)],
                [draw(st.text(max_size=4)) for _ in range(rows)],
                [float(row) for row in range(rows)],
            )
        )
    )
    labels = draw(
        st.sampled_from(
            (
                [draw(st.integers(-(2**62), 2**62)) for _ in range(rows)],
                [draw(st.one_of(st.none(), st.text(max_size=4))) for _ in range(rows)],
                [float("nan")] * rows,
                [draw(st.floats()) for _ in range(rows)],
                [draw(st.booleans()) for _ in range(rows)],
                [draw(st.binary(max_size=4)) for _ in range(rows)],
                [[row] for row in range(rows)],
                pa.array([draw(st.text(max_size=2)) for _ in range(rows)]).dictionary_encode(),
            )
        )
    )
    names = draw(
        st.sampled_from((("image", "label"), ("img", "label"), ("image", "y"), ("a", "a")))
    )
    table = pa.table([pa.array(column), pa.array(labels)], names=list(names))
    if draw(st.booleans()):
        features = st.dictionaries(
            st.sampled_from(names), st.fixed_dictionaries({"_type": junk, "names": junk})
        )
        described = features.map(lambda tree: {"info": {"features": tree}})
        metadata = draw(
            st.one_of(st.binary(max_size=20), st.one_of(junk, described).map(json_bytes))
        )
        table = table.replace_schema_metadata({b"huggingface": metadata})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@st.composite
def _hostile_texts(draw: st.DrawFn, texts: Sequence[bytes]) -> bytes:
    """Return hostile YAML: alone, or between two lines of a scenario."""
    attack = draw(st.sampled_from(HOSTILE_YAML)).encode()
    lines = draw(st.sampled_from((b"", *texts))).splitlines(keepends=True)
    place = draw(st.integers(0, len(lines)))
    return b"".join([*lines[:place], attack, *lines[place:]])


def input_targets(folder: Path, scenarios: Path, measurements: Path | None) -> list[Target]:
    """Return the targets for all input files of users.

    Parameters
    ----------
    folder : where the damaged files are written.
    scenarios : folder of valid scenario files.
    measurements : a valid CSV file of published latencies, if there is one.
    """
    texts = [path.read_bytes() for path in sorted(scenarios.glob("*.yaml"))]
    trees = [yaml.safe_load(text) for text in texts]
    catalogue = CATALOGUE_PATH.read_text(encoding="utf-8")
    few = "\n".join(catalogue.splitlines()[:6]) + "\n"
    traces = _traces()
    images = folder / "images"
    images.mkdir(parents=True)

    def read_images(path: Path) -> object:
        return load_pool(DataSection(name="parquet_folder", path=str(path.parent)))

    which = st.integers(0, len(texts) - 1)  # sampled by number: a failure prints the number only
    scenario_trees = which.flatmap(lambda number: damaged_trees(trees[number])).map(yaml_bytes)
    scenario_texts = which.flatmap(lambda number: damaged_bytes(texts[number]))
    smoke = yaml.safe_load((scenarios / "smoke.yaml").read_bytes())
    sweeps = [{**smoke, "sweep": section} for section in SWEEPS]
    damaged_sweeps = st.one_of(
        *(damaged_trees(section).map(lambda new: {**smoke, "sweep": new}) for section in SWEEPS),
        *(damaged_trees(tree) for tree in sweeps),
    )
    targets = [
        Target(
            "scenario, values",
            scenario_trees,
            folder / "scenario.yaml",
            _read_scenario,
            tuple(map(yaml_bytes, trees)),
        ),
        Target(
            "scenario, text and attacks on YAML",
            st.one_of(scenario_texts, _hostile_texts(texts)),
            folder / "text.yaml",
            _read_scenario,
            tuple(texts),
        ),
        Target(
            "scenario with a sweep",
            damaged_sweeps.map(yaml_bytes),
            folder / "sweep.yaml",
            _read_sweep,
            tuple(map(yaml_bytes, sweeps)),
        ),
        Target(
            "device catalogue",
            st.one_of(
                damaged_tables(few).map(lambda text: text.encode("utf-8", "surrogatepass")),
                damaged_bytes(few.encode()),
            ),
            folder / "catalogue.csv",
            partial(read_table, row=CatalogueDevice),
            (few.encode(),),
        ),
        Target(
            "availability traces",
            st.one_of(damaged_trees(json.loads(traces)).map(json_bytes), damaged_bytes(traces)),
            folder / "traces.json",
            read_traces,
            (traces,),
        ),
        Target(
            "images, parquet",
            st.one_of(damaged_bytes(sound_parquet()), _strange_parquet()),
            images / "train.parquet",
            read_images,
            (sound_parquet(),),
        ),
    ]
    if measurements is not None:
        some = "\n".join(measurements.read_text(encoding="utf-8").splitlines()[:6]) + "\n"
        contents = damaged_tables(some).map(lambda text: text.encode("utf-8", "surrogatepass"))
        path = folder / "latencies.csv"
        read_latencies = partial(read_table, row=Measurement)
        targets.append(Target("latencies", contents, path, read_latencies, (some.encode(),)))
    return targets
