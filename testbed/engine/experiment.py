"""One run of a scenario on one page: train, serve and attack every arm, then write the report."""

from collections.abc import Callable
from pathlib import Path

from testbed.core.compute import choose_device, computing_on
from testbed.core.plain_torch import plain_optimisers
from testbed.core.process import tune_malloc
from testbed.core.progress import Progress
from testbed.core.threads import one_thread
from testbed.engine.attacking.attacks import attack_arm
from testbed.engine.attacking.leakage import leakage_by_tier, releases_by_tier
from testbed.engine.attacking.memory import check_memory
from testbed.engine.attacking.sanity import sanity_checks
from testbed.engine.hosts.on_ray.address import check_address
from testbed.engine.hosts.starting import StartingHosts, starting_hosts
from testbed.engine.network.grid import fleet_grid
from testbed.engine.network.taps import open_taps
from testbed.engine.serving.serve import serve
from testbed.engine.serving.service_times import settle_service_times
from testbed.engine.setting.batch_warnings import with_batch_warnings
from testbed.engine.setting.models import ArmModels, arm_models
from testbed.engine.setting.run_context import RunContext, RunInputs, read_run_inputs
from testbed.engine.summary.host_facts import reference_rate
from testbed.engine.summary.run import RunRecord
from testbed.engine.training.fleet import prepare, restore, train
from testbed.engine.training.provider import train_at_provider
from testbed.results.writing import check_folder, open_folder, recorded_before
from testbed.scenario.schema import Scenario


def run_experiment(
    scenario: Scenario,
    folder: Path,
    progress: Progress,
    *,
    force: bool = False,
    resume: bool = False,
    ray_address: str | None = None,
    on_open: Callable[[], None] = lambda: None,
) -> Path:
    """Run a scenario into a results folder and return the path of the report.

    Parameters
    ----------
    force : replace a results folder that exists.
    resume : continue the interrupted run in the folder.
    ray_address : Ray cluster to join; None runs on this machine.
    on_open : called when the folder is ready.

    Raises
    ------
    UserError : the input is wrong; nothing was overwritten.
    HostError : a host or adversary process died; the run can be resumed.
    KeyboardInterrupt : raised again after the partial results are written.
    """
    tune_malloc()
    plain_optimisers()
    # 1. Read the inputs. Check everything that can be wrong before anything is written.
    check_folder(folder, scenario, force, resume)
    if ray_address is not None:
        check_address(ray_address)
    if resume:
        scenario = recorded_before(folder, scenario)
    engine = scenario.engine
    with (
        computing_on(choose_device(engine.device)),
        starting_hosts(engine.backend, engine.hosts, ray_address) as starting,
    ):
        return _prepared(scenario, folder, progress, starting, resume, on_open)


def _prepared(
    scenario: Scenario,
    folder: Path,
    progress: Progress,
    starting: StartingHosts,
    resume: bool,
    on_open: Callable[[], None],
) -> Path:
    """Read the inputs, open the folder, and run."""
    with progress.phase("load data and fleet"):
        inputs = read_run_inputs(scenario)
        arms = [arm_models(inputs, arm) for arm in scenario.arms]
        check_memory(inputs, arms)
        inputs = with_batch_warnings(settle_service_times(inputs, arms), arms)
    for note in inputs.data.notes:
        progress.say(f"data: {note}")
    for warning in (*inputs.machine_notes, *inputs.warnings):
        progress.say(f"warning: {warning}")
    open_folder(folder, inputs.scenario, resume)
    on_open()

    return _run(inputs, arms, folder, progress, starting)


def _run(
    inputs: RunInputs,
    arms: list[ArmModels],
    folder: Path,
    progress: Progress,
    starting: StartingHosts,
) -> Path:
    """Run all arms and write the results."""
    scenario = inputs.scenario
    # 2. Check that the attacks reconstruct what they must, and nothing else.
    with progress.phase("check the attacks"), one_thread():
        sanity = sanity_checks(inputs.data, scenario.seed)
    record = RunRecord(inputs, folder, progress, sanity)
    record.load_finished_arms()

    try:
        # 3. Give the data to the hosts, which simulate the devices and have started meanwhile.
        with progress.phase("start hosts"):
            backend = starting.with_data(inputs.host_data())
            record.host.hosts = backend.hosts
            if scenario.adversaries and any(arm.arm not in record.finished for arm in arms):
                backend.prepare_jobs()  # they take as long to start as the hosts do
        with backend:
            # 4. Train, serve and attack each arm that no earlier run has finished.
            run_context = RunContext(inputs, backend, folder, progress)
            for models in arms:
                if models.arm not in record.finished:
                    _run_arm(run_context, models, record)

            # 5. Measure what the simulation itself cost.
            with progress.phase("measure the host"):
                record.host.reference_rate = reference_rate(arms[0].main)
                record.host.measure_usage(backend)
    except KeyboardInterrupt:
        progress.stop_requested = lambda: False
        record.write("interrupted")
        raise

    # 6. Write the results and the report.
    return record.write("complete")


def _run_arm(run_context: RunContext, models: ArmModels, record: RunRecord) -> None:
    """Train, serve and attack one arm, and add it to the record."""
    inputs, progress = run_context.inputs, run_context.progress
    scenario, name = inputs.scenario, models.arm

    # 4a. Install the arm on the devices and connect them to the cloud, past the adversaries' taps.
    run_context.backend.install([tier.device_spec for tier in models.tiers])
    taps = open_taps(inputs)
    arm = prepare(run_context, models, fleet_grid(run_context, models, taps))

    # 4b. Train: at the provider, on the fleet, or first there and then here.
    restored = restore(arm, run_context.folder / "checkpoints" / name, progress.say)
    at_provider = scenario.training.protocol == "provider"
    if at_provider and not restored:
        record.host.models.append(train_at_provider(run_context, arm))
    if arm.server.training.rounds:
        phase = f"{'fine-tune' if at_provider else 'train'} {name}"
        with progress.phase(phase, arm.server.training.rounds):
            train(run_context, arm)

    # 4c. Serve the requests of all victims; the taps intercept their features.
    with progress.phase(f"serve {name}", len(inputs.data.parts.victims)):
        served = serve(run_context, arm)

    # 4d. Measure what the features leak, then attack what the taps intercepted.
    with progress.phase(f"attack {name}", len(scenario.adversaries)), one_thread():
        leakage = leakage_by_tier(scenario, inputs.data, arm)
        releases = releases_by_tier(inputs.data, arm)
        attacked = attack_arm(run_context, arm, taps, served, record.host.attacks)

    # 4e. Summarise the arm and store it, so that a resumed run skips it.
    record.finish_arm(run_context, arm, served, (leakage, releases), attacked)
