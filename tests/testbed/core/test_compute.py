"""The device of a run: its choice, and what a GPU is asked for."""

import os

import pytest
import torch

from testbed.core.compute import choose_device, compute_device, computing_on
from testbed.core.errors import UserError
from testbed.scenario.loading import validate_scenario


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"engine\.device: 'cuda' needs a GPU"):
        choose_device("cuda")


def test_a_gpu_is_asked_for_deterministic_kernels_in_full_precision(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    shares = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    with computing_on(torch.device("cuda"), memory_share=0.25):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert shares == [0.25]
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == before
    assert compute_device() == torch.device("cpu")


def test_the_device_of_the_provider_alone_is_no_key_any_more(tiny):
    tiny["training"]["provider"] = {"device": "cpu"}
    with pytest.raises(UserError, match=r"training\.provider: give engine\.device"):
        validate_scenario(tiny, "test")
