"""Registries, keyed random streams, and scenario files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.core import seeds
from testbed.core.errors import UserError
from testbed.core.registries import ALL
from testbed.core.registry import Options, Registry
from testbed.scenario.loading import dump_scenario, load_scenario, parse_yaml, validate_scenario


class Size(Options):
    """An option."""

    size: int = 3


def test_registry_creates_with_options_and_refuses_duplicates():
    registry: Registry[tuple] = Registry("thing")

    @registry.register("box", "a box", Size)
    def box(options, colour):
        return options.size, colour

    assert registry.create("box", {"size": 4}, colour="red") == (4, "red")
    assert registry.create("box", {}, colour="red") == (3, "red")
    with pytest.raises(ValueError, match="twice"):
        registry.register("box", "another")(box)
    with pytest.raises(ValueError, match="did you mean 'box'"):
        registry.entry("bax")


@pytest.mark.parametrize("kind", ALL)
def test_every_component_has_a_summary_and_typed_options(kind):
    names = ALL[kind].names()
    assert names
    for entry in ALL[kind]:
        assert entry.summary
        assert "\n" not in entry.summary
        assert issubclass(entry.options, Options)
        with pytest.raises(ValueError, match="no_such_option"):
            entry.options.model_validate({"no_such_option": 1})


@given(st.integers(0, 2**40), st.text(max_size=8), st.lists(st.integers(0, 2**31), max_size=3))
def test_streams_depend_on_their_key_only(seed, purpose, ids):
    first = seeds.generator(seed, purpose, *ids).integers(2**62, size=4)
    seeds.generator(seed, purpose + "other", *ids).random(100)
    assert np.array_equal(first, seeds.generator(seed, purpose, *ids).integers(2**62, size=4))
    others = [
        seeds.generator(seed + 1, purpose, *ids),
        seeds.generator(seed, purpose + "x", *ids),
        seeds.generator(seed, purpose, *ids, 5),
    ]
    assert all(not np.array_equal(first, rng.integers(2**62, size=4)) for rng in others)


@given(
    st.one_of(st.integers(0, 2**64), st.integers(2**120, 2**140)),
    st.text(max_size=8),
    st.lists(st.integers(0, 2**32 - 1), max_size=5),
    st.lists(st.integers(0, 2**32 - 1), max_size=3),
)
def test_streams_of_many_ids_are_those_of_each_id(seed, purpose, ids, more):
    many = seeds.generators(seed, purpose, np.array(ids, dtype=np.int64), *more)
    drawn = [(rng.random(3).tolist(), rng.integers(9, dtype=np.uint32)) for rng in many]
    each = [seeds.generator(seed, purpose, number, *more) for number in ids]
    assert drawn == [(rng.random(3).tolist(), rng.integers(9, dtype=np.uint32)) for rng in each]


def test_streams_of_many_ids_come_in_blocks_and_ids_have_32_bits(monkeypatch):
    monkeypatch.setattr(seeds, "IDS_AT_ONCE", 3)
    many = [rng.random() for rng in seeds.generators(1, "blocks", np.arange(8))]
    assert many == [seeds.generator(1, "blocks", number).random() for number in range(8)]
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match="32 bits"):
            next(seeds.generators(0, "wide", np.array([wrong])))


def test_torch_streams_do_not_change_the_global_state():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = torch.rand(3, generator=seeds.torch_generator(0, "a", 1))
    b = torch.rand(3, generator=seeds.torch_generator(0, "a", 1))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("purpose", ["request release", "cloud dropout"])
def test_torch_streams_have_all_words_of_their_state_from_the_key(purpose):
    """A slow reference: NumPy's Mersenne Twister with the words that the key draws."""
    words = seeds.generator(7, purpose, 3).bit_generator.random_raw(312).view(np.uint32)
    reference = np.random.MT19937()
    reference.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    drawn = torch.rand(2000, generator=seeds.torch_generator(7, purpose, 3)).numpy()
    assert np.array_equal(drawn * 2**24, reference.random_raw(2000) % 2**24)


def test_a_torch_stream_does_not_depend_on_other_draws():
    def stream():
        return torch.randn(40, generator=seeds.torch_generator(5, "request release", 2, 9))

    first = stream()
    torch.rand(1000)
    other = seeds.torch_generator(5, "request release", 2, 8)
    torch.randn(3, generator=other)  # leaves half of a pair of normal numbers behind
    assert torch.equal(stream(), first)


def test_torch_streams_differ_whose_seeds_of_32_bits_are_equal():
    """The six pairs of 200,000 requests that ``Generator.manual_seed`` gives the same stream."""
    pairs = [
        (79689, 105216),
        (45673, 52899),
        (6574, 103030),
        (7997, 66653),
        (48176, 83785),
        (5727, 130010),
    ]

    def drawn(n):
        stream = seeds.torch_generator(0, "request release", n % 1000, n // 1000)
        return torch.rand(10, generator=stream)

    assert not any(torch.equal(drawn(first), drawn(second)) for first, second in pairs)


@pytest.mark.parametrize("keys", [200_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_no_two_of_many_keys_are_equal(keys):
    """NumPy maps the 128 bits of a key's pool one to one to the first words of its streams."""
    pools = np.empty((keys, 2), np.uint64)
    for number in range(keys):
        ids = (number % 1000, number // 1000)
        pools[number] = seeds._sequence(0, "request release", ids).pool.view(np.uint64)
    assert len(np.unique(pools[:, 0])) == len(np.unique(pools[:, 1])) == len(pools)


def test_layers_draw_from_the_stream_of_their_key():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with seeds.global_stream(seeds.torch_generator(0, "dropout", 4)):
        drawn = torch.rand(5)
    assert torch.equal(drawn, torch.rand(5, generator=seeds.torch_generator(0, "dropout", 4)))
    assert torch.equal(before, torch.get_rng_state())


def test_only_one_file_seeds_torch():
    """``manual_seed`` uses 32 bits on the CPU."""
    top = Path(seeds.__file__).parents[2]
    files = [
        file for name in ("clients", "server", "testbed") for file in (top / name).rglob("*.py")
    ]
    seeding = [file.relative_to(top) for file in files if "manual_seed" in file.read_text()]
    assert seeding == [Path("testbed/core/seeds.py")]


def test_another_layout_of_torch_is_refused():
    with pytest.raises(UserError, match=r"another form .* constraints\.txt"):
        seeds.place_of_words(bytes(5056))


def test_resolved_scenario_loads_to_itself(tiny, tmp_path):
    scenario = validate_scenario(tiny, "test")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_scenario(scenario))
    assert load_scenario(path) == scenario


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("fleet.size=12", lambda s: s.fleet.size == 12),
        ("serving.request_deadline_ms=1e3", lambda s: s.serving.request_deadline_ms == 1000.0),
        ("arms.sift.defence.beta=0.4", lambda s: s.arms[1].defence.options["beta"] == 0.4),
        ("arms.0.name=plain", lambda s: s.arms[0].name == "plain"),
        ("training.strategy.name=fedmedian", lambda s: s.training.strategy.name == "fedmedian"),
        ("adversaries=[]", lambda s: s.adversaries == []),
        ("serving.horizon_s=5", lambda s: s.serving.horizon_s == 5.0),
    ],
)
def test_overrides(tiny, write_scenario, override, read):
    assert read(load_scenario(write_scenario(tiny), [override]))


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_parsed_or_refused_in_one_sentence(raw):
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    try:
        parse_yaml(text, "x.yaml")
    except UserError as error:
        assert "\n" not in str(error)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = ["name", "seed", "data", "fleet", "training", "arms", "serving", "adversaries", "engine"]


@given(st.sampled_from(KEYS), json_like)
def test_any_value_is_accepted_or_refused_in_one_sentence(key, value):
    from small import TINY

    tree = {**TINY, key: value}
    try:
        validate_scenario(tree, "x.yaml")
    except UserError as error:
        assert str(error).startswith("x.yaml")
        assert "\n" not in str(error).rstrip()
