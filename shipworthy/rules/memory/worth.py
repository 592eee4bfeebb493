"""What is worth remembering of what was said: not the phrases that only keep a conversation going.

What is dropped here is gone, so the list is short and closed: a message is small talk if it is nothing but these
phrases. An answer such as "No." may be a consent that was refused, and an emoji may be the point of the message.
"""

from __future__ import annotations

import re
import unicodedata

_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_LONGEST = 200
"""Characters of a message that may be small talk."""

_PHRASES = """
hi | hello | hey | hiya | howdy | hi there | hello there | hey there | good morning | good afternoon | good evening
good night | good day | how are you | how are you doing | how are you today | nice to meet you
bye | bye bye | goodbye | see you | see you soon | see you later | talk to you later | take care | have a nice day
have a good day | have a great day | have a good one
thanks | thank you | thx | ty | cheers | thanks a lot | many thanks | thanks so much | thanks very much
thank you so much | thank you very much | thanks again | thank you again
welcome | you are welcome | you're welcome | my pleasure | how can i help | how can i help you
how can i help you today | how may i help you
ok | okay | alright | all right | got it | i see | understood | makes sense | that makes sense | sounds good
cool | great | perfect | nice | wonderful | awesome | lovely | lol | haha | ha | hm | hmm | ah | oh | wow
"""
SMALL_TALK = frozenset([tuple(each.split()) for line in _PHRASES.splitlines() for each in line.split("|")])
_MOST = max([len(phrase) for phrase in SMALL_TALK])


def is_small_talk(text: str) -> bool:
    """Whether *text* is nothing but greetings, thanks and acknowledgements, or says nothing at all: it has no word, no
    number and no symbol."""
    if len(text) > _LONGEST or any([unicodedata.category(character)[0] == "S" for character in text]):
        return not text.strip()
    words = _WORDS.findall(text.casefold().replace("\u2019", "'"))
    at = 0
    while at < len(words):
        for size in range(_MOST, 0, -1):
            if tuple(words[at : at + size]) in SMALL_TALK:
                at += size
                break
        else:
            return False
    return True
