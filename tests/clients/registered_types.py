"""Types that a test's operator registers."""

import enum
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field
from typing_extensions import TypedDict


class Pet(BaseModel):
    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=30)


@dataclass
class Point:
    x: int
    y: int


class Named(TypedDict):
    name: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


Mood = Literal["glad", "not sure"]
