"""Sentences out of a copy of the released code, here one of our own making in its shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from mova_core.errors import ConfigError
from mova_core.model.release.naming import EXPERTS
from mova_core.model.release.profiles import read_profile
from mova_core.model.release.sentences import read_sentences

CONSTANTS = """
import os
os.abort()  # whoever runs this file does not come back

prompt = "Choose. " "At most three.\\nModels:"
models = [
    "one", "two", "three", "four", "five", "six", "seven",
]
options = ["A", "B", "C", "D", "E", "F", "G"]
for i in range(len(models)):
    prompt = prompt + "\\n" + options[i] + ". " + models[i]
"""

CONVERSATION = '''
raise SystemExit("run")

conv_mova_llama3 = Conversation(
    system="""<|begin_of_text|>Look.""",
    roles=("user", "assistant"),
    sep_style=SeparatorStyle.MPT,
    sep="<|eot_id|>",
)
'''


@pytest.fixture
def code(tmp_path: Path) -> Path:
    package = tmp_path / "MoVA" / "mova"
    package.mkdir(parents=True)
    (package / "constants.py").write_text(CONSTANTS)
    (package / "conversation.py").write_text(CONVERSATION)
    return package.parent


@pytest.mark.parametrize("place", ["", "mova"])
def test_they_are_read_and_never_run(code: Path, place: str) -> None:
    profile = read_profile("llama3-8b")
    told = read_sentences(code / place, profile.conversation).put_into(profile)
    assert told.prompt.begin == "<|begin_of_text|>Look.<|eot_id|>"
    assert told.prompt.user == profile.prompt.user
    assert told.routing.after_image == ("Choose. At most three.\nModels:\n{experts}\n\nQuestion:\n{question}")
    assert list(told.routing.descriptions) == list(EXPERTS)
    assert list(told.routing.descriptions.values()) == ["one", "two", "three", "four", "five", "six", "seven"]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("constants.py", "models = []", "a text prompt"),
        ("constants.py", "prompt = 'x'\nmodels = ['one']", "a list models of 7 texts"),
        ("constants.py", "prompt = f'{x}'", "a text prompt"),
        ("constants.py", "prompt = (", "a copy of the released code"),
        ("constants.py", "x = 1\n" * 200_000, "at most 1 MiB"),
        ("conversation.py", "x = 1", "a template conv_mova_llama3"),
        ("conversation.py", "conv_mova_llama3 = Conversation(system=open('x'))", "texts for system and sep"),
    ],
)
def test_another_code_is_refused(code: Path, file: str, text: str, said: str) -> None:
    (code / "mova" / file).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_sentences(code, "conv_mova_llama3")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="constants.py"):
        read_sentences(tmp_path / "none", "conv_mova_llama3")
