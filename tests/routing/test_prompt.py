from __future__ import annotations

from string import printable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.errors import ConfigError
from mova_core.routing import ChatFormat, ListwisePrompt, PointwisePrompt

TEXT = st.text(printable, max_size=30)


@given(question=TEXT, description=TEXT)
def test_a_pointwise_prompt_holds_question_and_description_as_they_are(question, description):
    chat = ChatFormat(prefix="<u>", suffix="<a>", end="</s>")
    prompt = PointwisePrompt(chat, "look:", "Q {question};", "D {description}?")
    assert prompt.head == "<u>look:"
    assert prompt.ask(question) == f"Q {question};"
    assert prompt.about(description) == f"D {description}?<a>"


@given(question=TEXT, descriptions=st.lists(TEXT, max_size=4))
def test_a_listwise_prompt_labels_the_descriptions(question, descriptions):
    prompt = ListwisePrompt(
        ChatFormat("", "<a>", "</s>"), "", "{experts}|{question}", "{label}={description}"
    )
    listed = "\n".join(f"{label}={text}" for label, text in zip("ABCD", descriptions, strict=False))
    assert prompt.head(descriptions) == ""
    assert prompt.ask(question, descriptions) == f"{listed}|{question}<a>"


@given(question=TEXT, descriptions=st.lists(TEXT, max_size=4))
def test_the_experts_may_stand_before_the_image(question, descriptions):
    prompt = ListwisePrompt(ChatFormat("<u>", "<a>"), "{experts}!", "{question}?", "{label}. {description}")
    listed = "\n".join(f"{label}. {text}" for label, text in zip("ABCD", descriptions, strict=False))
    assert prompt.head(descriptions) == f"<u>{listed}!"
    assert prompt.ask(question, descriptions) == f"{question}?<a>"


def test_placeholders_in_what_a_user_writes_are_left_alone():
    assert "{experts} {0} {" in ListwisePrompt().ask("{experts} {0} {", ["a {question} b"])
    assert "a {question} b" in ListwisePrompt().ask("why?", ["a {question} b"])
    assert "{description}" in PointwisePrompt().ask("{description}")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: PointwisePrompt(after_image="what?"), "after_image"),
        (lambda: PointwisePrompt(branch="helps?"), "branch"),
        (lambda: ListwisePrompt(after_image="{question}"), "after_image"),
        (lambda: ListwisePrompt(after_image="{experts}"), "after_image"),
        (lambda: ListwisePrompt(before_image="{experts}"), "before_image"),
        (lambda: ListwisePrompt(line="{label}"), "line"),
        (lambda: ListwisePrompt(separator=""), "separator"),
    ],
)
def test_a_prompt_that_would_drop_something_is_refused(make, field):
    with pytest.raises(ConfigError, match=field):
        make()
