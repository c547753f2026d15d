"""The ClientApp that Flower loads (``testbed.flower.client:app``): the edge of an arm."""

from functools import lru_cache

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.edge import build_client_app
from testbed.engine.hosts.host import HostData
from testbed.flower.run_config import RunConfig, chosen_arm


class ScenarioClientApp(ClientApp):
    """A ClientApp that is built when the first message says which scenario it is about.

    Parameters
    ----------
    config : the scenario and arm; None: those of each message's ``run_config``.
    """

    def __init__(self, config: RunConfig | None = None) -> None:
        super().__init__()
        self._config = config

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle a message as the device that the node's ``partition-id`` names."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # like a host of the testbed: their number sets bits
        try:
            config = self._config or RunConfig.of(context.run_config)
            return _app(config)(message, context)
        finally:
            torch.set_num_threads(threads)


@lru_cache(maxsize=2)
def _app(config: RunConfig) -> ClientApp:
    chosen = chosen_arm(config)
    data = chosen.inputs.data
    held = HostData(data.pool.images, data.pool.labels, data.device_images)
    return build_client_app(chosen.device_specs, held, keep_in_memory=False)


app = ScenarioClientApp()
