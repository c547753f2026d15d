"""The tables of the report beside the headline: fleet, arms, device classes, attacks, leakage."""

from testbed.pages.cells import Cell, Row, Table, group, number, scored, words
from testbed.results import formats as numbers
from testbed.results.findings import FEW_VICTIMS, best_attack, chance, readable
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, AttackOnClass, AttackResult, InformationBound, Latency


def fleet_table(results: Results) -> Table | None:
    """Return the composition of the fleet."""
    fleet = results.summary.fleet
    if fleet is None:
        return None

    def listing(counts: dict[str, int]) -> Cell:
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return words(", ".join(f"{name} ({n})" for name, n in ordered))

    rows = [
        Row(
            entry.device_class,
            [number(entry.devices, numbers.count), listing(entry.models), listing(entry.links)],
        )
        for entry in fleet.device_classes
    ]
    return Table(["device class", "devices", "models", "links"], rows)


def arm_table(results: Results) -> Table | None:
    """Return what each arm consists of."""
    if not results.arms:
        return None
    rows = []
    for arm in results.arms:
        shape = arm.edge.feature_shape if arm.edge else None
        rows.append(
            Row(
                arm.name,
                [
                    words(readable(arm.front_end)),
                    words(readable(arm.defence)),
                    words(readable(arm.cloud_model)),
                    words(" × ".join(map(str, shape)) if shape else numbers.ABSENT),  # noqa: RUF001
                    number(arm.edge.parameters if arm.edge else None, numbers.scaled),
                    number(arm.cloud.parameters if arm.cloud else None, numbers.scaled),
                ],
            )
        )
    return Table(
        [
            "arm",
            "front-end",
            "defence",
            "cloud model",
            "features",
            "edge parameters",
            "cloud parameters",
        ],
        rows,
    )


def class_table(arm: ArmResult) -> Table | None:
    """Return one arm's figures per device class."""
    if not arm.by_device_class:
        return None
    best = best_attack(arm)
    attacked = {entry.device_class: entry for entry in best.by_device_class} if best else {}
    any_raw = any(entry.offloaded_raw for entry in arm.by_device_class)
    headings = [
        "device class",
        "devices",
        "accuracy",
        "latency, median",
        "edge compute",
        "uplink per request",
        "energy per request",
        "victims",
        "best attack's MSE",
        "re-identified",
        "strag\u00adglers",
        "offline",
        "infeas\u00adible",
        *(["sent raw"] if any_raw else []),
    ]
    rows = []
    for entry in arm.by_device_class:
        latency = entry.latency_ms
        attack = attacked.get(entry.device_class)
        rows.append(
            Row(
                entry.device_class,
                [
                    number(entry.devices, numbers.count),
                    scored(entry.accuracy, numbers.percent, as_percent=True),
                    number(
                        latency.median if latency else None,
                        numbers.milliseconds,
                        _p95(latency),
                    ),
                    number(entry.edge_compute_ms, numbers.milliseconds),
                    number(entry.uplink_bytes_per_request, lambda v: numbers.scaled(v, "B")),
                    number(
                        entry.energy_mj_per_request,
                        lambda v: numbers.millijoules(v, numbers.UNKNOWN),
                    ),
                    _victims(attack),
                    scored(attack.mse if attack else None, numbers.significant, digits=2),
                    scored(
                        attack.reidentification if attack else None,
                        numbers.percent,
                        as_percent=True,
                    ),
                    number(entry.stragglers, numbers.count),
                    number(entry.offline, numbers.count),
                    number(entry.infeasible_serving, numbers.count),
                    *([number(entry.offloaded_raw, numbers.count)] if any_raw else []),
                ],
            )
        )
    return Table(headings, rows)


def _p95(latency: Latency | None) -> str:
    known = latency is not None and latency.p95 is not None
    return f"p95 {numbers.milliseconds(latency.p95)}" if latency and known else ""


def _victims(attack: AttackOnClass | None) -> Cell:
    victims = attack.victims if attack else None
    few = victims is not None and victims < FEW_VICTIMS
    return number(victims, numbers.count, "few" if few else "")


def attack_table(results: Results) -> Table | None:
    """Return every attack on every arm, anchors and each threat model's best marked."""
    rows = []
    for arm in results.arms:
        for adversary in dict.fromkeys(attack.adversary for attack in arm.attacks):
            rows.append(group(f"{arm.name}, {adversary}", 8))
            best = best_attack(arm, adversary)
            rows += [
                _attack_row(attack, attack is best)
                for attack in arm.attacks
                if attack.adversary == adversary
            ]
    headings = [
        "attack",
        "MSE",
        "PSNR (dB)",
        "SSIM",
        "re-identified",
        "chance",
        "victims",
        "decoder parameters",
        "epoch used",
    ]
    return Table(headings, rows) if rows else None


def _attack_row(attack: AttackResult, is_best: bool) -> Row:
    scores = attack.scores
    note = "anchor" if attack.is_anchor else "best" if is_best else ""
    if attack.worse_than_mean_image and not attack.is_anchor:
        failed = "worse than the mean image: the attack failed, which is not privacy"
        note = f"{note}; {failed}" if note else failed
    return Row(
        readable(attack.attack),
        [
            scored(scores.mse, numbers.significant),
            scored(scores.psnr_db, numbers.significant),
            scored(scores.ssim, numbers.significant),
            scored(scores.reidentification, numbers.percent, as_percent=True),
            number(chance(attack), numbers.percent),
            number(attack.victims, numbers.count),
            number(attack.body_parameters, numbers.scaled),
            number(attack.best_epoch, numbers.count),
        ],
        note,
        "anchor" if attack.is_anchor else "best" if is_best else "",
    )


def leakage_table(results: Results) -> Table | None:
    """Return the attack-free measures on the released features."""
    measured = [(arm, arm.leakage) for arm in results.arms if arm.leakage is not None]
    if not measured:
        return None
    rows = [
        Row(
            arm.name,
            [
                Cell(
                    f"{numbers.count(leakage.live_channels)} of {numbers.count(leakage.channels)}",
                    leakage.live_channels,
                ),
                number(leakage.participation_ratio, numbers.significant),
                number(leakage.spectral_rank, numbers.significant),
                number(leakage.dcor_u, numbers.significant),
                number(leakage.dcor_v, numbers.significant),
                number(leakage.hsic, numbers.significant),
                number(leakage.mean_abs_feature, numbers.significant),
                number(leakage.nonzero_per_sample, numbers.significant),
                number(leakage.samples, numbers.count),
                words(_release(arm)),
            ],
        )
        for arm, leakage in measured
    ]
    return Table(
        [
            "arm",
            "live channels",
            "participation ratio",
            "spectral rank",
            "dCor², bias-corrected",
            "dCor², V-statistic",
            "HSIC, normalised",
            "mean |z|",
            "non-zero entries",
            "samples",
            "release, by its defence",
        ],
        rows,
    )


def information_table(results: Results) -> Table | None:
    """Return the trained lower bounds on the information, where the run asked for them."""
    rows = []
    for arm in results.arms:
        found = arm.leakage.information if arm.leakage else None
        if found is not None:
            bounds = (found.mine, found.infonce, found.mine_bounded)
            counts = [
                number(found.mine.held_out, numbers.count),
                number(found.pairs, numbers.count),
            ]
            rows.append(Row(arm.name, [*map(_bound, bounds), *counts]))
    headings = [
        "arm",
        "MINE (nats)",
        "InfoNCE (nats)",
        "MINE as published, bounded (nats)",
        "held-out pairs",
        "pairs",
    ]
    return Table(headings, rows) if rows else None


def _bound(bound: InformationBound) -> Cell:
    """Return a bound above its estimator's ceiling, or above the reason why there is none."""
    ceiling = bound.ceiling_nats
    at_most = f"cannot exceed {numbers.significant(ceiling)}" if ceiling is not None else ""
    return number(bound.nats, numbers.significant, bound.reason or at_most)


def _release(arm: ArmResult) -> str:
    """Return what a defence reports of its release, for instance its signal-to-noise ratio."""
    facts = [
        f"{readable(name.removesuffix('_db'))} {numbers.significant(value)}"
        + (f"{numbers.THIN}dB" if name.endswith("_db") and value is not None else "")
        for name, value in arm.release.items()
    ]
    return ", ".join(facts) or numbers.ABSENT
