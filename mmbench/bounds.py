"""Bounds of constructor arguments, declared once: a value outside is refused before any run.

They are wide: a suite may ask for what no paper does, but for nothing that cannot be meant.
"""

from typing import Annotated

from pydantic import Field

Width = Annotated[int, Field(ge=1, le=2**14)]  # of an embedding, a token or a hidden layer
Depth = Annotated[int, Field(ge=1, le=256)]  # layers one after the other
Count = Annotated[int, Field(ge=1, le=2**16)]  # heads, tokens, experts, neighbours, epochs
AtLeastZero = Annotated[int, Field(ge=0, le=2**16)]  # of what a method can do without
SampleCount = Annotated[int, Field(ge=1, le=10**7)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy and torch take
Rate = Annotated[float, Field(ge=0, lt=1)]  # of dropout
Share = Annotated[float, Field(ge=0, le=1)]
LossWeight = Annotated[float, Field(ge=0, le=1e6)]  # of a term of the loss
LearningRate = Annotated[float, Field(gt=0, le=100)]
Decay = Annotated[float, Field(ge=0, le=100)]  # of weights
