"""What can go wrong, said so that the reader can mend it.

Every failure that a user can cause or cure is a `MovaError`: it names the value that was wrong, what was
expected instead, and the next command to type. The command line prints it as one line and exits with code 2.
"""

from __future__ import annotations


class MovaError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        message: what is wrong, as a short clause.
        value: the offending value; a long one is cut in its middle, so that a path keeps its file name.
        expected: what would have been right.
        hint: the way out, usually a command.
    """

    def __init__(
        self,
        message: str,
        *,
        value: object | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.value = value
        self.expected = expected
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        parts = [self.message]
        if self.value is not None:
            parts.append(f"got {_shortened(self.value if isinstance(self.value, str) else repr(self.value))}")
        if self.expected:
            parts.append(f"expected {self.expected}")
        line = "; ".join(parts)
        return " ".join((f"{line}. {self.hint}" if self.hint else line).split())


def _shortened(text: str, most: int = 160) -> str:
    if len(text) <= most:
        return text
    head = most // 4
    return f"{text[:head]}...{text[len(text) - most + head + 3 :]}"


class CardError(MovaError):
    """An expert's card cannot be used (syntax, missing key, wrong value)."""


class UnknownExpertError(MovaError):
    """No discovered expert has this id."""


class ExpertLoadError(MovaError):
    """A named expert could not be built or its weights could not be read."""


class ExpertRunError(MovaError):
    """An expert failed, or broke its contract, on real input."""


class PoolError(MovaError):
    """The pool cannot do what was asked: empty, over budget, or of the wrong role."""


class InputError(MovaError):
    """An image or a question that cannot be read."""


class RoutingError(MovaError):
    """Routing was asked for something impossible (no candidate, more labels than tokens)."""


class ConfigError(MovaError):
    """A configuration value is missing or wrong."""


class CheckpointError(MovaError):
    """A checkpoint is incomplete, corrupt or made for another pool or core."""


class PartsError(MovaError):
    """A model's parts could not be fetched, verified or stored."""


class InstallError(MovaError):
    """A distribution could not be installed or removed, or nobody vouches for its name."""
