"""The released sentences, read out of the user's own copy of the released code. It is parsed, never executed.

Ours are worded anew. A checkpoint was trained with the released ones, and whoever holds a copy of that code
may want them back: the system sentence, the routing instruction, and the seven descriptions.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mova_core.errors import ConfigError
from mova_core.model.release.naming import EXPERTS
from mova_core.model.release.profiles import ReleaseProfile

_CONSTANTS: Final = "constants.py"
_CONVERSATIONS: Final = "conversation.py"
_LARGEST: Final = 2**20
"""Bytes of a source file; the released ones have a few thousand."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """What a copy of the released code says.

    Args:
        begin: all that stands before the first turn.
        instruction: what asks for experts, up to the line before the first description.
        descriptions: of the seven experts, in the release's order.
    """

    begin: str
    instruction: str
    descriptions: tuple[str, ...]

    def put_into(self, profile: ReleaseProfile) -> ReleaseProfile:
        """The profile with these sentences in place of ours."""
        routing = profile.routing.model_copy(
            update={
                "after_image": f"{self.instruction}\n{{experts}}\n\nQuestion:\n{{question}}",
                "descriptions": dict(zip(EXPERTS, self.descriptions, strict=True)),
            }
        )
        prompt = profile.prompt.model_copy(update={"begin": self.begin})
        return profile.model_copy(update={"prompt": prompt, "routing": routing})


def read_sentences(folder: Path, conversation: str) -> Sentences:
    """Read the sentences of a profile.

    Args:
        folder: a copy of the released repository, or of the package `mova` in it.
        conversation: name of the conversation template, see `ReleaseProfile.conversation`.

    Raises:
        ConfigError: a file is missing, is no Python, or does not hold what was released.
    """
    package = folder / "mova" if (folder / "mova").is_dir() else folder
    constants = _assignments(package / _CONSTANTS)
    instruction = _text(constants, "prompt", package / _CONSTANTS)
    descriptions = _texts(constants, "models", package / _CONSTANTS)
    template = _assignments(package / _CONVERSATIONS).get(conversation)
    if not isinstance(template, ast.Call):
        raise _lacks(package / _CONVERSATIONS, f"a template {conversation}")
    words = {keyword.arg: keyword.value for keyword in template.keywords}
    system, end = (_literal(words.get(name)) for name in ("system", "sep"))
    if not isinstance(system, str) or not isinstance(end, str):
        raise _lacks(package / _CONVERSATIONS, f"texts for system and sep in {conversation}")
    return Sentences(system + end, instruction, descriptions)


def _assignments(file: Path) -> dict[str, ast.expr]:
    """The first value that each name gets at a module's top level."""
    try:
        if file.stat().st_size > _LARGEST:
            raise ConfigError("not a file of the released code", value=str(file), expected="at most 1 MiB")
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            "the released sentences cannot be read",
            value=str(file),
            expected="a copy of the released code",
            hint="Name the folder that holds mova/constants.py and mova/conversation.py.",
        ) from error
    found: dict[str, ast.expr] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, statement.value)
    return found


def _literal(node: ast.expr | None) -> object:
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _text(names: dict[str, ast.expr], name: str, file: Path) -> str:
    value = _literal(names.get(name))
    if not isinstance(value, str):
        raise _lacks(file, f"a text {name}")
    return value


def _texts(names: dict[str, ast.expr], name: str, file: Path) -> tuple[str, ...]:
    value = _literal(names.get(name))
    if (
        not isinstance(value, list)
        or len(value) != len(EXPERTS)
        or not all(isinstance(t, str) for t in value)
    ):
        raise _lacks(file, f"a list {name} of {len(EXPERTS)} texts")
    return tuple(value)


def _lacks(file: Path, expected: str) -> ConfigError:
    return ConfigError(
        "this is not the released code",
        value=str(file),
        expected=expected,
        hint="Leave out --prompt-from to use our wording.",
    )
