"""Bounds of constructor arguments, declared once: a value outside is refused before any run.

No text, flag or fraction passes for a whole number. They are wide: a suite may ask for what no
paper does, but for nothing that cannot be meant.
"""

from typing import Annotated

from pydantic import Field

Width = Annotated[int, Field(strict=True, ge=1, le=2**14)]  # of an embedding or a layer
Depth = Annotated[int, Field(strict=True, ge=1, le=256)]  # layers one after the other
Count = Annotated[int, Field(strict=True, ge=1, le=2**16)]  # heads, tokens, experts, epochs
AtLeastZero = Annotated[int, Field(strict=True, ge=0, le=2**16)]  # of what may be left out
SampleCount = Annotated[int, Field(strict=True, ge=1, le=10**7)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]  # what numpy and torch take
Number = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Positive = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Rate = Annotated[float, Field(strict=True, ge=0, lt=1)]  # of dropout
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
LossWeight = Annotated[float, Field(strict=True, ge=0, le=1e6)]  # of a term of the loss
LearningRate = Annotated[float, Field(strict=True, gt=0, le=100)]
Decay = Annotated[float, Field(strict=True, ge=0, le=100)]  # of weights
