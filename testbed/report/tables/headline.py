"""The comparison of the arms: one column each, with ratios to the first arm."""

from collections.abc import Callable

from testbed.pages.cells import Cell, Format, Row, Table, group, number, scored, words
from testbed.results import formats as numbers
from testbed.results.findings import anchors, best_attack, chance, identifies_more, readable
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, AttackResult


def headline_table(results: Results) -> Table | None:
    """Return the comparison of the arms, one column each, with ratios to the first arm."""
    arms = results.arms
    if not arms:
        return None
    rows = [*_utility_rows(arms), *_privacy_rows(arms), *_cost_rows(arms), *_count_rows(arms)]
    return Table(["", *(arm.name for arm in arms)], rows)


def _compared(
    label: str, arms: list[ArmResult], get: Callable[[ArmResult], float | None], fmt: Format
) -> Row:
    """Return a row of numbers, those after the first arm with their ratio to it."""
    first = get(arms[0])
    cells = [number(first, fmt)]
    cells += [number(get(arm), fmt, numbers.times(get(arm), first)) for arm in arms[1:]]
    return Row(label, cells)


def _utility_rows(arms: list[ArmResult]) -> list[Row]:
    tests = [arm.accuracy.test if arm.accuracy else None for arm in arms]
    return [
        group("Utility", len(arms)),
        Row("test accuracy", [scored(test, numbers.percent, as_percent=True) for test in tests]),
    ]


def _privacy_rows(arms: list[ArmResult]) -> list[Row]:
    best = [best_attack(arm) for arm in arms]
    if not any(best):
        return [
            group("Privacy", len(arms)),
            Row("attacks", [words("none was mounted") for _ in arms]),
        ]
    rows = [
        group("Privacy: the best attack, all adversaries", len(arms)),
        Row(
            "which attack",
            [
                words(f"{readable(a.attack)}, {a.adversary}", _verdict(a))
                if a
                else words(numbers.ABSENT)
                for a in best
            ],
        ),
        Row(
            "MSE per element",
            [scored(a.scores.mse if a else None, numbers.significant) for a in best],
        ),
    ]
    names = list(
        dict.fromkeys(x.attack for a, arm in _pairs(best, arms) for x in anchors(arm, a.adversary))
    )
    rows += [
        Row(
            f"{readable(name)}, same victims",
            [_anchor_mse(a, arm, name) for a, arm in zip(best, arms, strict=True)],
            kind="anchor",
        )
        for name in names
    ]
    rows += [
        Row(
            "PSNR (dB)",
            [scored(a.scores.psnr_db if a else None, numbers.significant) for a in best],
        ),
        Row("SSIM", [scored(a.scores.ssim if a else None, numbers.significant) for a in best]),
        Row(
            "re-identified",
            [
                scored(a.scores.reidentification if a else None, numbers.percent, as_percent=True)
                for a in best
            ],
        ),
        Row(
            "chance",
            [number(chance(a) if a else None, numbers.percent) for a in best],
            kind="anchor",
        ),
    ]
    more = [identifies_more(arm, a) if a else None for a, arm in zip(best, arms, strict=True)]
    if any(more):
        rows.append(
            Row(
                "another attack re-identifies more",
                [
                    Cell(
                        numbers.percent(a.scores.reidentification.value),
                        a.scores.reidentification.value,
                        f"{readable(a.attack)}, {a.adversary}",
                    )
                    if a
                    else words("no")
                    for a in more
                ],
            )
        )
    return rows


def _pairs(
    best: list[AttackResult | None], arms: list[ArmResult]
) -> list[tuple[AttackResult, ArmResult]]:
    return [(a, arm) for a, arm in zip(best, arms, strict=True) if a is not None]


def _anchor_mse(best: AttackResult | None, arm: ArmResult, name: str) -> Cell:
    if best is not None:
        for anchor in anchors(arm, best.adversary):
            if anchor.attack == name:
                return number(anchor.scores.mse.value, numbers.significant)
    return words(numbers.ABSENT)


def _verdict(attack: AttackResult) -> str:
    return "failed: worse than the mean image" if attack.worse_than_mean_image else ""


def _cost_rows(arms: list[ArmResult]) -> list[Row]:
    def unknown(arm: ArmResult) -> str:
        devices = arm.serving.energy_unknown_devices if arm.serving else None
        return f"unknown for {devices} devices" if devices else ""

    energy = _compared(
        "energy per request",
        arms,
        lambda a: a.serving.energy_mj_per_request if a.serving else None,
        numbers.millijoules,
    )
    energy_notes = [
        "; ".join(filter(None, (cell.note, unknown(arm))))
        for cell, arm in zip(energy.cells, arms, strict=True)
    ]
    return [
        group("Cost, per image (simulated)", len(arms)),
        _compared(
            "multiply-accumulates", arms, lambda a: a.edge.macs if a.edge else None, numbers.scaled
        ),
        _compared(
            "parameters", arms, lambda a: a.edge.parameters if a.edge else None, numbers.scaled
        ),
        _compared(
            "peak activation elements",
            arms,
            lambda a: a.edge.peak_activation_elements if a.edge else None,
            numbers.scaled,
        ),
        _compared(
            "bytes of features",
            arms,
            lambda a: a.edge.feature_bytes if a.edge else None,
            lambda v: numbers.scaled(v, "B"),
        ),
        _compared(
            "median latency",
            arms,
            lambda a: a.serving.latency_ms.median if a.serving else None,
            numbers.milliseconds,
        ),
        _compared(
            "95th percentile of latency",
            arms,
            lambda a: a.serving.latency_ms.p95 if a.serving else None,
            numbers.milliseconds,
        ),
        Row(
            energy.label,
            [
                Cell(cell.text, cell.value, note)
                for cell, note in zip(energy.cells, energy_notes, strict=True)
            ],
        ),
        *_radio_and_cloud_rows(arms),
    ]


def _radio_and_cloud_rows(arms: list[ArmResult]) -> list[Row]:
    """Return the energy without the radios' tails, where there are any, and the cloud's cost."""
    served = [arm.serving for arm in arms if arm.serving]
    rows = []
    if any(part.work_mj_per_request != part.energy_mj_per_request for part in served):
        rows.append(
            _compared(
                "the same without keeping radios awake",
                arms,
                lambda a: a.serving.work_mj_per_request if a.serving else None,
                numbers.millijoules,
            )
        )
    if any(part.cost_usd_per_1000.busy is not None for part in served):
        rows.append(
            _compared(
                "busy cloud servers, per 1,000 images",
                arms,
                lambda a: a.serving.cost_usd_per_1000.busy if a.serving else None,
                numbers.dollars,
            )
        )
    return rows


def _provider_rows(arms: list[ArmResult]) -> list[Row]:
    """Return the rows on training at the provider, where there was any."""
    found = [arm.training.provider if arm.training else None for arm in arms]
    if not any(found):
        return []
    return [
        group("Training at the provider", len(arms)),
        Row("images", [number(p.images if p else None, numbers.count) for p in found]),
        Row("epochs", [number(p.epochs if p else None, numbers.count) for p in found]),
        Row(
            "epoch deployed",
            [number(p.deployed_epoch if p else None, numbers.count) for p in found],
        ),
    ]


def _count_rows(arms: list[ArmResult]) -> list[Row]:
    def training(name: str, label: str) -> Row:
        return Row(
            label,
            [
                number(getattr(a.training, name) if a.training else None, numbers.count)
                for a in arms
            ],
        )

    def serving(name: str, label: str) -> Row:
        return Row(
            label,
            [number(getattr(a.serving, name) if a.serving else None, numbers.count) for a in arms],
        )

    return [
        *_provider_rows(arms),
        group("Training, device-rounds", len(arms)),
        training("participations", "took part"),
        training("stragglers", "stragglers, past the deadline"),
        training("offline", "offline"),
        training("failed", "failed"),
        training("infeasible", "devices whose memory is too small"),
        group("Serving, requests", len(arms)),
        serving("answered", "answered"),
        serving("deadline_misses", "answered past the deadline"),
        serving("offline", "offline"),
        serving("infeasible", "front-end does not fit the device"),
        serving("offloaded_raw", "sent as raw images, fully exposed"),
    ]
