"""What every part of the results is made of: names, numbers that may be unknown, intervals."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Names become file names of strips, so what is read back is held to the scenario's own pattern.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Number = Annotated[float, Field(allow_inf_nan=False)] | None
Count = Annotated[int, Field(ge=0)] | None


class Part(BaseModel):
    """Base of every part of the results: read-only."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Interval(Part):
    """A bootstrap 95 % interval over ``n`` victims."""

    value: Number = None
    low: Number = None
    high: Number = None
    n: Count = None
