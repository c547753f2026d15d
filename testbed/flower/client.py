"""The ClientApp that Flower loads (``testbed.flower.client:app``): the edge of an arm."""

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.edge import build_client_app
from testbed.core.threads import torch_threads
from testbed.flower.run_config import RunConfig, chosen_arm


class ScenarioClientApp(ClientApp):
    """A ClientApp that is built when the first message arrives.

    Parameters
    ----------
    config : scenario and arm; None takes them from each message's ``run_config``.
    """

    def __init__(self, config: RunConfig | None = None) -> None:
        super().__init__()
        self._config = config

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle a message as the device that the node's ``partition-id`` names."""
        config = self._config or RunConfig.of(context.run_config)
        with torch_threads(1):  # as on a host of the testbed
            return _app(config)(message, context)


@lru_cache(maxsize=2)
def _app(config: RunConfig) -> ClientApp:
    chosen = chosen_arm(config)
    return build_client_app(chosen.device_specs, chosen.inputs.host_data(), keep_in_memory=False)


app = ScenarioClientApp()
