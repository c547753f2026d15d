"""The ``serving`` section: when requests arrive, and the cloud that answers them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from testbed.scenario.components import Name, Section

PositiveMs = Annotated[float, Field(gt=0.0)]


class ServiceTimes(Section):
    """Milliseconds of both halves of a tier at the cloud, for batches of 1, 2, ... requests."""

    cloud: list[PositiveMs] = Field(min_length=1, description="the cloud model on a batch")
    front_end: list[PositiveMs] = Field(
        min_length=1, description="the front-end on the raw images of a batch, one or more"
    )


class ServingSection(Section):
    """The victims' requests and the cloud that answers them."""

    horizon_s: Annotated[float, Field(gt=0.0)] = Field(
        default=600.0, description="virtual seconds over which the requests arrive (Poisson)"
    )
    cloud_device: str = "cloud-server"
    cloud_servers: Annotated[int, Field(ge=1)] = 1
    max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="requests that a server answers together; 1: no batching"
    )
    batch_window_ms: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="how long a batch waits to fill, from its first request on"
    )
    cloud_service: Literal["catalogue", "measured", "recorded"] = Field(
        default="catalogue",
        description="duration of a batch: modelled for cloud_device, or timed on this host when "
        "the run starts and written to the resolved scenario as recorded",
    )
    recorded_service_ms: dict[Name, dict[str, ServiceTimes]] = Field(
        default={},
        description="times by arm and tier ('own': its own front-end), for 'cloud_service: "
        "recorded'",
    )
    cloud_price_usd_per_hour: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None, description="of one server; null: as published for cloud_device, or unknown"
    )
    request_deadline_ms: Annotated[float, Field(gt=0.0)] = 1000.0

    @model_validator(mode="after")
    def _batches(self) -> Self:
        if self.batch_window_ms > 0.0 and self.max_batch == 1:
            raise ValueError("batch_window_ms needs a max_batch above 1: one request fills a batch")
        if self.recorded_service_ms and self.cloud_service != "recorded":
            raise ValueError("recorded_service_ms needs 'cloud_service: recorded'")
        for arm, tiers in self.recorded_service_ms.items():
            for tier, times in tiers.items():
                if min(len(times.cloud), len(times.front_end)) < self.max_batch:
                    raise ValueError(
                        f"recorded_service_ms.{arm}.{tier}: give a time for every batch of 1 to "
                        f"max_batch ({self.max_batch}) requests, for cloud and for front_end"
                    )
        return self
