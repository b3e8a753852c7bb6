"""The recogniser pocketsphinx, as callers of telephone speech need it.

It holds the interpreter's lock while it computes, so it is at home in a worker process. The parameters were
measured on synthetic voices over an 8 kHz μ-law path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pocketsphinx

from providers.local.speech.dictionary import Pronounce, dictionary
from providers.local.speech.expectations import GENERAL
from providers.local.speech.language_model import END, START, Gram, arpa

RATE_HZ = 16000
"""What the acoustic model was trained on."""

_TELEPHONE_CMN = "41.7,1.13,6.44,3.83,-0.61,0,0,0,0,0,0,0,0"
"""Cepstral mean of telephone speech: without it the first words of a call are heard through the wrong ear."""


_LONGEST_WORD_FRAMES = 120
"""Frames of 10 ms: steady noise is heard as one endless word, people are done with one in half a second."""


class Recognizer:
    """The models of one process, and the decoders that share them.

    A decoder hears one segment at a time and is lent for just that long; more are made when more callers
    speak at once (12 ms and 8 MB each).
    """

    def __init__(self, models: Mapping[str, Counter[Gram]], pronounce: Pronounce, folder: Path) -> None:
        """``folder`` holds the models' files while this lives; pocketsphinx reads nothing but files."""
        acoustic = Path(pocketsphinx.get_model_path()) / "en-us"
        words = {word for counts in models.values() for gram in counts for word in gram} - {START, END}
        with (acoustic / "cmudict-en-us.dict").open(encoding="utf-8") as known:
            (folder / "words.dict").write_text(dictionary(words, known, pronounce), encoding="utf-8")
        self._settings = {
            "hmm": str(acoustic / "en-us"),
            "dict": str(folder / "words.dict"),
            "lm": None,
            "cmn": "live",
            "cmninit": _TELEPHONE_CMN,
            # The second pass takes 30 ms and more after the last word, and mends two words in a thousand.
            "fwdflat": False,
            "loglevel": "FATAL",
        }
        self._models: dict[str, pocketsphinx.NGramModel] = {}
        self._idle: list[pocketsphinx.Decoder] = []
        first = pocketsphinx.Decoder(**self._settings)
        for name, counts in models.items():
            path = folder / f"{name}.arpa"
            path.write_text(arpa(counts), encoding="utf-8")
            self._models[name] = pocketsphinx.NGramModel(first.config, first.logmath, str(path))
        self._idle.append(self._furnish(first))

    @property
    def expectations(self) -> tuple[str, ...]:
        return tuple(self._models)

    def warm_up(self, decoders: int) -> None:
        """Makes decoders in advance, so that no caller waits for one."""
        while len(self._idle) < decoders:
            self._idle.append(self._furnish(pocketsphinx.Decoder(**self._settings)))

    def lend(self, expects: str | None) -> pocketsphinx.Decoder:
        decoder = self._idle.pop() if self._idle else self._furnish(pocketsphinx.Decoder(**self._settings))
        decoder.activate_search(expects if expects in self._models else GENERAL)
        return decoder

    def take_back(self, decoder: pocketsphinx.Decoder) -> None:
        self._idle.append(decoder)

    def _furnish(self, decoder: pocketsphinx.Decoder) -> pocketsphinx.Decoder:
        for name, model in self._models.items():
            decoder.add_lm(name, model)
        return decoder


class Ear:
    """Hears one caller, segment by segment, and gets used to the line."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._decoder: pocketsphinx.Decoder | None = None
        self._cmn = _TELEPHONE_CMN

    @property
    def listening(self) -> bool:
        return self._decoder is not None

    def begin(self, expects: str | None) -> None:
        """A segment starts; one that has not ended is forgotten."""
        self.forget()
        self._decoder = self._recognizer.lend(expects)
        self._decoder.set_cmn(self._cmn)
        self._decoder.start_utt()

    def hear(self, samples: bytes, rate_hz: int) -> None:
        """16-bit samples at 8 or 16 kHz; what comes outside of a segment is ignored."""
        if self._decoder is None or not samples:
            return
        if rate_hz != RATE_HZ:
            # Repeating, not filtering: the mirror image above 4 kHz resembles what the acoustic model was
            # trained on more than silence does (yes/no: 12 % errors against 67 %).
            samples = np.frombuffer(samples, np.int16).repeat(RATE_HZ // rate_hz).tobytes()
        self._decoder.process_raw(samples, False, False)

    def end(self) -> str:
        """The segment is over: its words, or nothing."""
        if self._decoder is None:
            return ""
        decoder = self._decoder
        decoder.end_utt()
        text = " ".join(_spoken_words(decoder))
        if text:
            self._cmn = decoder.get_cmn(False)
        self._give_back()
        return text

    def forget(self) -> None:
        """Drops the segment that is being heard."""
        if self._decoder is not None:
            self._decoder.end_utt()
            self._give_back()

    def _give_back(self) -> None:
        assert self._decoder is not None
        self._recognizer.take_back(self._decoder)
        self._decoder = None


def _spoken_words(decoder: pocketsphinx.Decoder) -> Iterator[str]:
    if decoder.hyp() is None:
        return
    for piece in decoder.seg():
        # Silences and noises are named <sil> or [NOISE]; a second pronunciation of a word is word(2).
        if piece.word[0] not in "<[" and piece.end_frame - piece.start_frame < _LONGEST_WORD_FRAMES:
            yield piece.word.partition("(")[0]
