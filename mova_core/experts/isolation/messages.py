"""What two processes say to each other: JSON of known shape, and beside it at most one segment of memory.

    parent                      worker
                            <-  Hello
    Load                    ->
                            <-  Loaded | Failed
    Encode + stream         ->
                            <-  Encoded + tokens | Failed
    Prepare + pictures      ->
                            <-  Prepared + stream | Failed

Every request has one answer. There is no farewell: whoever closes the connection has ended the other's work.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter

PROTOCOL: Final = 1
"""Version of these messages. An environment keeps the mova-core it was made with, perhaps another one."""

DTypeName = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "uint8", "bool"]


class Message(BaseModel):
    """One message: frozen, and without fields that its reader does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorHeader(Message):
    """What a segment of memory holds: a tensor, row-major from its first byte."""

    dtype: DTypeName
    shape: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=8)]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


class Hello(Message):
    """The worker runs. Fields of later versions are passed over, so that versions can be compared."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["hello"] = "hello"
    protocol: int
    mova_core: str = ""


class Load(Message):
    """Build the expert of a card.

    Args:
        card: the card as plain data.
        source: the file or folder of its weights; "" for none.
        dtype: of its parameters.
        device: where they go.
        threads: how many torch may use, the parent's number.
    """

    kind: Literal["load"] = "load"
    card: dict[str, Any]
    source: str
    dtype: DTypeName
    device: str
    threads: PositiveInt


class Loaded(Message):
    """The expert is ready.

    Args:
        nbytes: of its parameters and buffers.
        prepares: its class has a `preprocess` of its own.
    """

    kind: Literal["loaded"] = "loaded"
    nbytes: Annotated[int, Field(ge=0)]
    prepares: bool


class Encode(Message):
    """Run the expert on the stream that comes along."""

    kind: Literal["encode"] = "encode"
    stream: TensorHeader


class Encoded(Message):
    """Features; the tokens [b, n, c] come along."""

    kind: Literal["encoded"] = "encoded"
    tokens: TensorHeader
    grid: tuple[PositiveInt, PositiveInt]


class Prepare(Message):
    """Prepare pictures.

    Args:
        pixels: uint8, the RGB bytes of all pictures one after the other.
        sizes: width and height of each.
    """

    kind: Literal["prepare"] = "prepare"
    pixels: TensorHeader
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...]


class Prepared(Message):
    """The stream comes along."""

    kind: Literal["prepared"] = "prepared"
    stream: TensorHeader


class Failed(Message):
    """The request failed in the expert's code.

    Args:
        message: of a `MovaError`, with the three fields below; empty for another exception, whose type and
            words are the value.
        traceback: where it was raised.
    """

    kind: Literal["failed"] = "failed"
    message: str = ""
    value: str | None = None
    expected: str | None = None
    hint: str | None = None
    traceback: str = ""


Request = Load | Encode | Prepare
Answer = Hello | Loaded | Encoded | Prepared | Failed

REQUESTS: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
ANSWERS: Final[TypeAdapter[Answer]] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])
