"""How long a worker is waited for."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from mova_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may take, in seconds.

    Args:
        start: until its interpreter runs and has imported torch.
        answer: until it has loaded the expert, or answered a request.
    """

    start: float = 120.0
    answer: float = 600.0

    @classmethod
    def from_environment(cls) -> Patience:
        """The defaults, or for both the seconds of the environment variable MOVA_WORKER_TIMEOUT.

        Raises:
            ConfigError: it holds no positive number.
        """
        text = os.environ.get("MOVA_WORKER_TIMEOUT")
        if not text:
            return cls()
        with suppress(ValueError):
            if 0 < (seconds := float(text)) < float("inf"):
                return cls(seconds, seconds)
        raise ConfigError(
            "MOVA_WORKER_TIMEOUT says no time",
            value=text,
            expected="seconds, such as MOVA_WORKER_TIMEOUT=900",
        )
