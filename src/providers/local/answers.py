"""What callers answer to a question: yes or no, a name, what a message is about."""

from __future__ import annotations

import re

_YES = re.compile(
    r"\b(yes|yeah|yep|yup|yah|sure|correct|right|okay|ok|exactly|perfect|absolutely|definitely|fine|certainly|"
    r"indeed|^please$|please do|go ahead|sounds good|of course|that's it|that is it|no problem|why not)\b"
)
_PLAIN_YES = re.compile(r"\b(yes|yeah|yep|yup)\b")
_NO = re.compile(
    r"\b(no(?! problem)|nope|nah|(?<!why )not|wrong|incorrect|change|correct (?=the|my)|never|isn't|don't|doesn't|"
    r"wasn't)\b"
)
_PLAIN_ANSWER_WORDS = 3
_LONGEST_ANSWER_WORDS = 8
"""A longer sentence is no answer of yes or no, unless it begins with one."""

_FILLERS = re.compile(
    r"^(?:(?:um|uh|er|erm|hm|mm|ah|well|so|yes|yeah|no|nope|okay|ok|hello|hi|sure|alright|all right|right|please)\b ?)+"
)
_LEAD_INS = re.compile(
    r"^(?:(?:and )?(?:my (?:full |last |first |own )?name(?:'s| is)|(?:the |last |first )?name(?:'s| is)|this is|"
    r"it's|it is|i'm|i am|that's|that is|you can call me|call me|here is|speaking is|that would be))\b\s*"
)
_TAIL = re.compile(r"\s+(?:speaking|here|please|calling)$")
_TITLES = {"mister": "Mr", "missus": "Mrs", "mrs": "Mrs", "mr": "Mr", "miss": "Miss", "doctor": "Dr"}
_LONGEST_NAME_WORDS = 6
_REASON_LEAD_INS = re.compile(
    r"^(?:(?:it's|it is|that's|that is|i'm calling|i am calling|i call|i called) )?about\b\s*"
)

_UNFINISHED = re.compile(
    r"\b(and|but|or|the|a|an|my|your|is|are|am|to|because|so|with|of|at|in|from|i|if|when|that's|it's|i'm|um|uh|er|"
    r"erm|hm|like|would|could|can|want|need|about|what's|where's|on|than|then|whether)$"
)
"""Nobody ends a sentence with these."""
_FINISHED_ENDINGS = ("what is it about", "what's it about", "i think so", "hope so", "come in", "yes i am")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))


def yes_or_no(text: str) -> bool | None:
    """True for yes, False for no, None where it is neither, or both."""
    said = words(text)
    spoken = " ".join(said[:_LONGEST_ANSWER_WORDS])
    if len(said) > _LONGEST_ANSWER_WORDS:
        spoken = said[0] if said[0] in ("yes", "yeah", "no", "nope") else ""
    if _NO.search(spoken):
        return None if _PLAIN_YES.search(spoken) else False
    return True if _YES.search(spoken) else None


def is_plain_answer(text: str) -> bool:
    """Whether ``text`` is little more than a yes or a no."""
    said = words(text)
    return len(said) <= _PLAIN_ANSWER_WORDS and said[0] in ("yes", "yeah", "yep", "yup", "no", "nope")


def person_name(text: str) -> str:
    """The name in an answer such as "my name is sarah johnson" or "s m i t h"; "" if there is none."""
    spoken = _TAIL.sub("", _LEAD_INS.sub("", _without_fillers(text)))
    said = [word for word in spoken.split() if not word.isdigit()]
    if not _is_spelt(said) and len(said) > _LONGEST_NAME_WORDS:
        return ""
    return " ".join(_TITLES.get(word) or _capitalised(word) for word in _joined_letters(said))


def introduces_name(text: str) -> bool:
    """Whether the caller begins as one does who says a name: "my name is …"."""
    lead_in = _LEAD_INS.match(_without_fillers(text))
    return lead_in is not None and "name" in lead_in[0]


def reason(text: str) -> str:
    """What the message is about, as a sentence; "" if nothing was said."""
    spoken = " ".join(text.split())
    shorter = _REASON_LEAD_INS.sub("", spoken, count=1).strip() or spoken
    return shorter[:1].upper() + shorter[1:]


def trails_off(text: str) -> bool:
    """Whether the text ends where no sentence ends: "my number is", "what are your opening hours and"."""
    spoken = " ".join(words(text))
    return _UNFINISHED.search(spoken) is not None and not spoken.endswith(_FINISHED_ENDINGS)


def _without_fillers(text: str) -> str:
    return _FILLERS.sub("", " ".join(words(text)))


def _is_spelt(said: list[str]) -> bool:
    return len(said) > 1 and all(len(word) == 1 for word in said)


def _joined_letters(said: list[str]) -> list[str]:
    """Runs of single letters made words: "john s m i t h" is "john smith"."""
    joined: list[str] = []
    spelling = False
    for word in said:
        if len(word) == 1 and spelling:
            joined[-1] += word
        else:
            joined.append(word)
        spelling = len(word) == 1
    return joined


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]
