"""The typed form of ``host.json``: what the simulation itself cost (docs/results.md)."""

from pydantic import Field

from testbed.results.schema import Count, Number, Part


class Phase(Part):
    """A stage of the run and the host's wall time it took."""

    name: str
    wall_s: Number


class Process(Part):
    """What one process of the simulation cost."""

    name: str
    cpu_s: Number
    peak_rss_mb: Number


class ReferenceRate(Part):
    """The host's measured rate on the first arm's front-end, one thread."""

    front_end: str
    images_per_s: float
    gmac_per_s: float


class AttackCost(Part):
    """What one attack cost the host."""

    arm: str
    adversary: str
    attack: str
    cpu_s: Number
    peak_mb: Number = Field(
        default=None,
        description="the most memory that its process held while it ran, above what the process "
        "held before; the largest of its tiers; null where the system does not count it",
    )
    on_training: bool = Field(default=False, description="on training images")


class ProviderModel(Part):
    """Where an arm's model of the provider came from."""

    arm: str
    model: str | None = Field(
        description="its key in `models/`; null: not kept, since a part of it is in no file"
    )
    reused: bool


class HostFacts(Part):
    """The whole of ``host.json``: what the simulation itself cost. No result depends on it."""

    versions: dict[str, str]
    cores: Count | None
    phases: list[Phase]
    total_wall_s: Number
    processes: list[Process]
    reference_rate: ReferenceRate | None = Field(description="null where the run was interrupted")
    attacks: list[AttackCost]
    models: list[ProviderModel]
    backend: str
    hosts: Count
    device: str = Field(description="what computed: CPU or GPU, its kind, the cloud's threads")
    host_restarts: Count
    adversary_restarts: Count
    torch_threads: Count
    finished_at: str
