"""What is dropped of what was said, and what never is."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from shipworthy.rules.memory.worth import is_small_talk

WORTH = [
    "I'm not okay, I need help now",
    "I'm not well",
    "I need to talk, please help me, I am not okay",
    "No.",
    "Yes.",
    "No, don't",
    "you may not talk to me",
    "not today, I'm in",
    "It's a problem, help me please",
    "\U0001f95c\U0001f6ab",
    "\U0001f44d",
    "42",
    "\u4e0d",
    "Thanks, but no.",
    "ok " * 100 + "not",
]
TALK = [
    "Hi!",
    "Ok, thanks!",
    "You are welcome!",
    "Thank you so much. Bye!",
    "you\u2019re welcome",
    "...",
    "",
    " \n",
]


def test_only_a_message_that_is_nothing_but_greetings_and_thanks_is_dropped() -> None:
    assert _wrong(is_small_talk) == []


def _wrong(judge: Callable[[str], bool]) -> list[str]:
    return [text for text in WORTH if judge(text)] + [text for text in TALK if not judge(text)]


def _word_by_word(text: str) -> bool:
    words = "a am be can do go good help i i'm it's me my no not now of ok okay please talk thank thanks to today yes"
    return all([word in words.split() for word in re.findall(r"[\w']+", text.casefold())])


def _by_length(text: str) -> bool:
    return len(text.split()) < 3


@pytest.mark.parametrize("mutant", [_word_by_word, _by_length])
def test_a_judge_that_drops_more_is_found_out(mutant: Callable[[str], bool]) -> None:
    assert _wrong(mutant)
