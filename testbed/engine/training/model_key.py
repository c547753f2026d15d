"""Describes everything that the weights of a provider-trained model depend on, and hashes it."""

import hashlib
import json
import platform
from typing import Any

import torch

import clients.device_spec
import server.provider
from server.machine import threads_of
from server.provider import ProviderImages
from testbed.core.compute import describe_device
from testbed.core.project import source_digest
from testbed.core.registries import CLOUD_MODELS, DEFENCES, FRONT_ENDS
from testbed.core.registry import Entry, Registry
from testbed.engine.setting.models import ArmModels
from testbed.engine.training.code_files import CodeFiles, NotHashableError
from testbed.engine.training.code_values import CodeValues
from testbed.scenario.schema import Scenario

FORMAT = 2
Facts = dict[str, Any]


def describe_model(
    scenario: Scenario,
    models: ArmModels,
    images: ProviderImages,
    device: torch.device,
) -> Facts:
    """Return everything that the trained weights depend on, as a JSON tree.

    The arm's name, the adversaries, and the fleet except the shares of its tiers are not part of
    it: scenarios that agree on the rest share one model.

    Raises
    ------
    NotHashableError : a component has a part whose content cannot be told.
    """
    section = scenario.training.provider
    used = models.used()
    device_specs = [models.tiers[tier].device_spec for tier in used]
    first = device_specs[0]
    cloud_model, cloud_options = models.tiers[0].edge.front_end.cloud_model
    return {
        "format": FORMAT,
        "tiers": [
            {
                "front_end": device_spec.front_end.model_dump(),
                "defence": device_spec.defence.model_dump(),
                "precision": device_spec.precision,
                "share": models.share(tier),
            }
            for tier, device_spec in zip(used, device_specs, strict=True)
        ],
        "cloud_model": {
            "name": cloud_model,
            **cloud_options,
            "entry_layers": [list(shape) for shape in models.cloud.shapes],
        },
        "data": {
            "name": scenario.data.name,
            "options": scenario.data.options,
            "image_shape": list(first.image_shape),
            "classes": first.num_classes,
            "channel_mean": list(first.channel_mean),
            "channel_std": list(first.channel_std),
            "training_images": len(images.labels),
            "validation_images": len(images.validation_labels),
            "sha256": _digest_of_images(images),
        },
        "provider": section.model_dump(exclude={"threads"}),
        "seed": scenario.seed,
        "device": describe_device(device, threads_of(section)),
        "code": describe_code(models),
    }


def key_of(facts: Facts) -> str:
    """Return the name of a model's files: a readable part and a hash of all facts."""
    text = json.dumps(facts, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    front_end, defence = (facts["tiers"][0][part]["name"] for part in ("front_end", "defence"))
    return f"{front_end}-{defence}-{facts['data']['name']}-{digest[:24]}"


def _digest_of_images(images: ProviderImages) -> str:
    digest = hashlib.sha256()
    for array in (
        images.images,
        images.labels,
        images.validation_images,
        images.validation_labels,
    ):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def entries_of(registry: Registry[Any], component: Facts) -> list[Entry[Any]]:
    """Return the registry's entries of a component and of those that its options name."""
    found = [registry.entry(component["name"])]
    for value in component.values():
        if isinstance(value, dict) and value.get("name") in registry.names():
            found += entries_of(registry, value)
    return found


def describe_code(models: ArmModels) -> Facts:
    """Return hashes of the code that trains an arm, and of what this code computes with.

    A change to one defence retrains only the arms that use it.

    Raises
    ------
    NotHashableError : a component has a part whose content cannot be told; names the component.
    """
    files = CodeFiles()
    files.follow([server.provider.__name__, clients.device_spec.__name__])
    values = CodeValues(files)
    parts: list[tuple[Registry[Any], Facts, Any]] = []
    for tier in models.used():
        device_spec, edge = models.tiers[tier].device_spec, models.tiers[tier].edge
        parts.append((FRONT_ENDS, device_spec.front_end.model_dump(), edge.front_end))
        parts.append((DEFENCES, device_spec.defence.model_dump(), edge.defence))
    name, options = models.tiers[0].edge.front_end.cloud_model
    parts.append((CLOUD_MODELS, {"name": name, **options}, models.cloud))
    for registry, component, untrained in parts:
        try:
            for entry in entries_of(registry, component):
                files.follow([entry.factory.__module__])
                values.add([entry.factory, entry.options])
            values.add_options(component)
            values.add(untrained)
        except (NotHashableError, RecursionError) as error:
            raise NotHashableError(f"{registry.kind} '{component['name']}': {error}") from None
    return {
        "files_sha256": source_digest(files.sources),
        "values_sha256": values.hexdigest(),
        "packages": files.packages | {"python": platform.python_version()},
    }
