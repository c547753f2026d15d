"""Describes everything that the weights of a provider-trained model depend on, and hashes it."""

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import clients.device_spec
import server.provider
from server.compute import describe_device
from server.provider import ProviderImages
from testbed.core.project import source_digest
from testbed.core.registries import CLOUD_MODELS, DEFENCES, FRONT_ENDS
from testbed.core.registry import Registry
from testbed.engine.setting.models import ArmModels
from testbed.scenario.schema import Scenario

FORMAT = 1
PACKAGES = ("clients", "server", "testbed.core", "testbed.wire")
# Their relevant values are in the key; their source changes with every new option.
NOT_FOLLOWED = ("testbed.core.registries", "testbed.core.registry")
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
    """
    section = scenario.training.provider
    used = models.used()
    device_specs = [models.tiers[tier].device_spec for tier in used]
    first = device_specs[0]
    cloud_model, cloud_options = models.tiers[0].edge.front_end.cloud_model
    modules = [server.provider.__name__, clients.device_spec.__name__]
    modules.append(CLOUD_MODELS.entry(cloud_model).factory.__module__)
    for device_spec in device_specs:
        modules += modules_of(FRONT_ENDS, device_spec.front_end.model_dump())
        modules += modules_of(DEFENCES, device_spec.defence.model_dump())
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
        "provider": section.model_dump(exclude={"device"}),
        "seed": scenario.seed,
        "device": describe_device(device, scenario.engine.cloud_threads),
        "torch": torch.__version__,
        "code_sha256": digest_of_code(modules),
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


def modules_of(registry: Registry[Any], component: Facts) -> list[str]:
    """Return the modules that define a component and those that its options name."""
    found = [registry.entry(component["name"]).factory.__module__]
    for value in component.values():
        if isinstance(value, dict) and value.get("name") in registry.names():
            found += modules_of(registry, value)
    return found


def digest_of_code(modules: Iterable[str]) -> str:
    """Return a hash of the source of modules and of their imports within ``PACKAGES``.

    A change to one defence therefore retrains only the arms that use it.
    """
    waiting, sources = list(modules), dict[str, bytes]()
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = _source_file(name)
        sources[name] = path.read_bytes() if path else b""
        if path:
            waiting += _imports_of(sources[name])
    return source_digest(sources)


def _source_file(module: str) -> Path | None:
    loaded = sys.modules.get(module)
    spec = loaded.__spec__ if loaded else importlib.util.find_spec(module)
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


def _imports_of(source: bytes) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {
        name
        for name in names - set(NOT_FOLLOWED)
        if any(name == package or name.startswith(package + ".") for package in PACKAGES)
    }
