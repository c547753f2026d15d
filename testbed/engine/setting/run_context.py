"""Inputs and context that all arms share: data, fleet, hosts and the results folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from server.machine import emulated, settled
from server.strategies import fewest_replies
from testbed.core.compute import choose_device
from testbed.core.errors import UserError
from testbed.core.layers import MIN_BATCH
from testbed.core.progress import Progress
from testbed.core.registries import AVAILABILITIES, STRATEGIES
from testbed.core.registry import nearest
from testbed.data.federated import FederatedData, load_federated_data
from testbed.engine.hosts.backend import Backend
from testbed.engine.hosts.host import HostData
from testbed.engine.hosts.starting import starting_hosts
from testbed.engine.setting.auxiliary_data import ForeignImages, foreign_images
from testbed.engine.setting.positions import check_positions
from testbed.fleet.catalogue import Catalogue, CatalogueDevice, load_catalogue
from testbed.fleet.link_effects import RadioTimers, share_access_points
from testbed.fleet.links import load_links
from testbed.fleet.sampling import Fleet, sample_fleet
from testbed.scenario.schema import Assignment, Scenario


@dataclass(frozen=True)
class RunInputs:
    """Data and fleet of a scenario.

    ``foreign`` holds the images of adversaries whose auxiliary data is another dataset, by name.
    """

    scenario: Scenario
    data: FederatedData
    fleet: Fleet
    cloud_device: CatalogueDevice
    foreign: Mapping[str, ForeignImages] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on the run's data and on adversaries' own, for terminal and report."""
        foreign = (text for images in self.foreign.values() for text in images.warnings)
        return (*self.data.warnings, *foreign)

    @property
    def machine_notes(self) -> tuple[str, ...]:
        """Sentences on this machine: for the terminal alone, since no result depends on it."""
        training, device = self.scenario.training, choose_device(self.scenario.engine.device)
        at_provider = training.protocol == "provider"
        return tuple(filter(None, [emulated(training.provider, device)])) if at_provider else ()

    def host_data(self) -> HostData:
        """Return the training images and their devices, as hosts hold them."""
        return HostData(self.data.pool.images, self.data.pool.labels, self.data.device_images)

    @cached_property
    def radio_timers(self) -> RadioTimers | None:
        """Return the radios that sleep; None: none does."""
        scenario = self.scenario
        return RadioTimers(self.fleet, scenario.seed) if scenario.fleet.radio_sleep else None

    def online(self) -> Callable[[int, float, int], bool]:
        """Return a fresh availability model: (device, virtual seconds, draw) -> reachable."""
        scenario = self.scenario
        chosen = scenario.fleet.availability
        model = AVAILABILITIES.create(chosen.name, chosen.options, fleet_size=len(self.fleet))
        return lambda device, at_s, draw: model.online(device, at_s, draw, scenario.seed)


@dataclass(frozen=True)
class RunContext:
    """The inputs of a run, with its hosts running and its folder open."""

    inputs: RunInputs
    backend: Backend
    folder: Path
    progress: Progress


def read_fleet(scenario: Scenario) -> tuple[Fleet, CatalogueDevice]:
    """Draw the fleet and look up the cloud's device.

    Raises
    ------
    UserError : an unknown device or link, or an error in the scenario's own catalogue, with
        file, row and column.
    """
    section = scenario.fleet
    catalogue: Catalogue = load_catalogue(*(Path(path) for path in section.catalogues))
    fleet = share_access_points(
        sample_fleet(section, scenario.seed, catalogue, load_links()),
        section.devices_per_access_point,
    )
    cloud = catalogue.named(scenario.serving.cloud_device, "serving.cloud_device")
    _check_assignments(section.assignments, catalogue)
    return fleet, cloud


def _check_assignments(assignments: Sequence[Assignment], catalogue: Catalogue) -> None:
    """Refuse an assignment to a class or device that is not in the catalogue."""
    classes = sorted({device.device_class for device in catalogue})
    known = [*classes, *(device.name for device in catalogue)]
    for item in assignments:
        for name in item.devices:
            if name not in known:
                raise UserError(
                    f"fleet.assignments.{item.name}.devices: no device class or device "
                    f"'{name}'{nearest(name, known)}; classes: {', '.join(classes)}"
                )


def check_components(scenario: Scenario, devices: int) -> None:
    """Build the components whose options can be wrong in combination, to check them.

    Raises
    ------
    UserError : a strategy or availability model refuses its options, or the device lacks the
        precision of the provider's training.
    """
    if scenario.training.protocol == "provider":
        settled(scenario.training.provider, choose_device(scenario.engine.device))
    strategy, availability = scenario.training.strategy, scenario.fleet.availability
    try:
        needed = fewest_replies(STRATEGIES.create(strategy.name, strategy.options))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"training.strategy: '{strategy.name}' refuses its options ({error})"
        ) from None
    cohort = scenario.training.cohort_size
    if scenario.training.fleet_rounds and cohort < needed:
        raise UserError(
            f"training.cohort_size: '{strategy.name}' with these options needs {needed} updates in "
            f"a round, and at most {cohort} devices take part; raise it, or change "
            "training.strategy"
        )
    try:
        AVAILABILITIES.create(availability.name, availability.options, fleet_size=devices)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"fleet.availability: '{availability.name}' refuses its options ({error})"
        ) from None


def read_run_inputs(scenario: Scenario, share_out: bool = True) -> RunInputs:
    """Load data and fleet, and choose what the scenario leaves to this machine.

    That is the device of ``engine.device: auto``, and the provider's threads and precision.

    Parameters
    ----------
    share_out : whether to distribute the training images; costs do not depend on them.

    Raises
    ------
    UserError : an unknown device or link, an error in the data, no GPU where one is needed, or a
        precision that the device lacks.
    """
    device = choose_device(scenario.engine.device)
    engine = scenario.engine.model_copy(update={"device": device.type})
    update: dict[str, Any] = {"engine": engine}
    if scenario.training.protocol == "provider":
        provider = settled(scenario.training.provider, device)
        update["training"] = scenario.training.model_copy(update={"provider": provider})
    scenario = scenario.model_copy(update=update)
    fleet, cloud = read_fleet(scenario)
    check_components(scenario, len(fleet))
    check_positions(scenario, fleet)
    data = load_federated_data(scenario.data, scenario.fleet.size, scenario.seed, share_out)
    if scenario.training.protocol == "provider" and len(data.parts.training) < MIN_BATCH:
        raise UserError(
            f"data.splits.training: a provider needs {MIN_BATCH} images to train on, this part has "
            f"{len(data.parts.training)}; raise its share, or data.max_images"
        )
    return RunInputs(scenario, data, fleet, cloud, foreign_images(scenario, data))


def start_backend(inputs: RunInputs, hosts: int | None, address: str | None = None) -> Backend:
    """Start the hosts of the scenario's backend, and wait for them."""
    with starting_hosts(inputs.scenario.engine.backend, hosts, address) as starting:
        return starting.with_data(inputs.host_data())
