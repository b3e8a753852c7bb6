"""The C library flite, as far as it is needed: a voice that streams, and the pronunciation of a word.

Calls into the library leave the interpreter's lock, so speech is made beside recognition. The library keeps
state in its voices: one thread at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

VOICES = ("slt", "rms", "awb", "kal")

_CONTINUE, _STOP = 0, -1
_CHUNK_SAMPLES = 800
"""Least samples that the library hands over at once: 50 ms at the 16 kHz of its better voices."""


class FliteMissingError(Exception):
    """The library or a voice of it is not installed."""


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(_Wave), ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p
)


class _StreamingInfo(ctypes.Structure):
    _fields_ = (
        ("min_buffsize", ctypes.c_int),
        ("asc", _Callback),
        ("utt", ctypes.c_void_p),
        ("item", ctypes.c_void_p),
        ("userdata", ctypes.c_void_p),
    )


class _Voice(ctypes.Structure):
    """The first members of ``cst_voice``; more follow."""

    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


OnSound = Callable[[bytes, int], bool]
"""Samples (16-bit, machine order) and their rate in Hz; false stops the voice."""


class Flite:
    """One voice of the library, by its short name."""

    def __init__(self, voice: str) -> None:
        if voice not in VOICES:
            raise FliteMissingError(f"flite has no voice {voice!r}; it has {', '.join(VOICES)}")
        self._library = _load("libflite.so.1")
        self._lexicon_library = _load("libflite_cmulex.so.1")
        self._voice_library = _load(f"libflite_cmu_us_{voice}.so.1")
        self._declare()
        self._library.flite_init()
        register = getattr(self._voice_library, f"register_cmu_us_{voice}")
        register.argtypes, register.restype = (ctypes.c_char_p,), ctypes.POINTER(_Voice)
        self._voice = register(None)
        self._lexicon = self._lexicon_library.cmu_lex_init()
        self._on_sound: OnSound = lambda samples, rate_hz: False
        # The library calls it by address: it has to live as long as the voice.
        self._callback = _Callback(self._sounded)
        info = self._library.new_audio_streaming_info()
        info.contents.min_buffsize = _CHUNK_SAMPLES
        info.contents.asc = self._callback
        self._library.feat_set(
            self._voice.contents.features, b"streaming_info", self._library.audio_streaming_info_val(info)
        )

    def speak(self, text: str, on_sound: OnSound) -> None:
        """Speaks ``text`` and returns when it is done or ``on_sound`` said stop."""
        self._on_sound = on_sound
        self._library.flite_text_to_speech(text.encode("ascii", "replace"), self._voice, b"stream")

    def phones(self, word: str) -> list[str]:
        """The phones of one word in flite's names, vowels with a stress figure."""
        library = self._library
        phones = []
        head = cell = library.lex_lookup(self._lexicon, word.encode("ascii", "replace"), None)
        while cell:
            phones.append(library.val_string(library.val_car(cell)).decode("ascii"))
            cell = library.val_cdr(cell)
        library.delete_val(head)
        return phones

    def _sounded(self, wave: ctypes._Pointer[_Wave], start: int, size: int, last: int, info: int) -> int:
        sound = wave.contents
        samples = ctypes.string_at(ctypes.addressof(sound.samples.contents) + 2 * start, 2 * size)
        return _CONTINUE if self._on_sound(samples, sound.sample_rate) else _STOP

    def _declare(self) -> None:
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        voice, info = ctypes.POINTER(_Voice), ctypes.POINTER(_StreamingInfo)
        for name, result, arguments in (
            ("new_audio_streaming_info", info, ()),
            ("audio_streaming_info_val", pointer, (info,)),
            ("feat_set", None, (pointer, text, pointer)),
            ("flite_text_to_speech", ctypes.c_float, (text, voice, text)),
            ("lex_lookup", pointer, (pointer, text, pointer)),
            ("val_car", pointer, (pointer,)),
            ("val_cdr", pointer, (pointer,)),
            ("val_string", text, (pointer,)),
            ("delete_val", None, (pointer,)),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._lexicon_library.cmu_lex_init.restype = pointer


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise FliteMissingError(
            f"the voice needs the library {name}: install flite (Debian, Ubuntu: apt-get install flite)"
        ) from error
