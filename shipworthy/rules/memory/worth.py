"""What is worth remembering of what was said: not the words that only keep a conversation going."""

from __future__ import annotations

import re

_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

_TALK = """
a ah all alright am and any are bye can cheers cool could day did do done evening fine for go good
goodbye got great ha he hello help hey hi hm hmm how i i'm is it it's just know later let's lol lot
lots maybe me more morning much my need nice night no nope not now of oh ok okay one perfect please
problem right see so soon sorry sounds sure talk test thank thanks that that's the then there this
to understood up very wait welcome well what what's will with wonderful would yeah yep yes you
you're your
"""
SMALL_TALK = frozenset(_TALK.split())


def is_small_talk(text: str) -> bool:
    """Whether *text* has no word beyond greetings, thanks and the like. What has no words at all is."""
    return all([word in SMALL_TALK for word in _WORDS.findall(text.casefold().replace("\u2019", "'"))])
