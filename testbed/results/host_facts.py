"""The typed form of ``host.json``: what the simulation itself cost (docs/results.md)."""

from pydantic import Field

from testbed.results.schema import Count, Number, Part


class Phase(Part):
    """A stage of the run and the host's wall time it took."""

    name: str
    wall_s: Number = None


class Process(Part):
    """What one process of the simulation cost."""

    name: str
    cpu_s: Number = None
    peak_rss_mb: Number = None


class ReferenceRate(Part):
    """The host's measured rate on a reference front-end."""

    front_end: str = ""
    images_per_s: Number = None
    gmac_per_s: Number = None


class AttackCost(Part):
    """What one attack cost the host."""

    arm: str
    adversary: str
    attack: str
    cpu_s: Number = None


class HostFacts(Part):
    """The whole of ``host.json``: what the simulation itself cost."""

    versions: dict[str, str] = Field(default_factory=dict)
    cores: Count = None
    phases: list[Phase] = Field(default_factory=list)
    total_wall_s: Number = None
    processes: list[Process] = Field(default_factory=list)
    reference_rate: ReferenceRate | None = None
    attacks: list[AttackCost] = Field(default=[])
    backend: str | None = None
    hosts: Count = None
    host_restarts: Count = None
    adversary_restarts: Count = None
