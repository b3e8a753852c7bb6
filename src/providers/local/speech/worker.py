"""A speech server of its own process: recognition and voice over Wyoming.

Runs under the engine's supervision or alone, for any Wyoming client::

    python -m providers.local.speech.worker --uri unix:///tmp/speech.sock --phrases questions.txt

A recognition request is ``transcribe{name}`` (the kind of answer expected), ``audio-start``,
``audio-chunk`` of 16-bit mono sound at 8 or 16 kHz, ``audio-stop``; a clause is ``synthesize{text}``,
answered in 8 kHz. Logs are JSON lines on the standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_get_stdin
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler, AsyncServer
from wyoming.tts import Synthesize

from providers.local.speech.dictionary import by_rules
from providers.local.speech.expectations import expectations
from providers.local.speech.flite import VOICES, Flite, FliteMissingError
from providers.local.speech.voice import RATE_HZ as VOICE_RATE_HZ
from providers.local.speech.voice import Voice
from providers.wyoming import EventDecoder, WyomingError, encode, encode_audio

if TYPE_CHECKING:
    from providers.local.speech.recognizer import Ear, Recognizer

log = structlog.get_logger(__name__)

_DECODERS = 4
"""Callers who may speak at once without waiting for a decoder to be made."""
_READ_BYTES = 4096
"""A quarter of a second of sound: what one caller's backlog may take of the others' time at once (8 ms)."""
_RECOGNITION_MISSING = (
    "speech recognition needs the Python package pocketsphinx, which is made for Python 3.11 to 3.13: "
    "install the extra 'local' there"
)
_UNSUPPORTED = "sound must be 16-bit mono at 8000 or 16000 Hz"
_LANGUAGES = ["en-US"]


class Speech:
    """What all connections of a worker share."""

    def __init__(self, recognizer: Recognizer, voice: Voice) -> None:
        self.recognizer = recognizer
        self.voice = voice
        # libflite serves one thread at a time.
        self.mouth = ThreadPoolExecutor(max_workers=1, thread_name_prefix="voice")

    def describe(self) -> Info:
        made = Attribution("Carnegie Mellon University", "https://www.cmu.edu")
        common: dict[str, Any] = {
            "attribution": made,
            "installed": True,
            "description": None,
            "version": None,
        }
        models = [AsrModel(name, languages=_LANGUAGES, **common) for name in self.recognizer.expectations]
        voice = TtsVoice(self.voice.name, languages=_LANGUAGES, speakers=None, **common)
        return Info(
            asr=[AsrProgram("pocketsphinx", models=models, **common)],
            tts=[TtsProgram("flite", voices=[voice], **common)],
        )


class Connection(AsyncEventHandler):
    """One client: a caller's recognition, a clause to be spoken, or both."""

    def __init__(self, speech: Speech, ear: Ear, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._speech = speech
        self._ear = ear
        self._expects: str | None = None
        self._speaking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serves until the client hangs up; what is not Wyoming ends its connection and nothing else."""
        decoder = EventDecoder()
        try:
            while data := await self.reader.read(_READ_BYTES):
                for event in decoder.feed(data):
                    await self.handle_event(event)
                await asyncio.sleep(0)
        except (WyomingError, KeyError, TypeError, AttributeError) as error:
            log.warning("speech_client_refused", error=repr(error))
        except OSError as error:
            log.debug("speech_client_lost", error=str(error))
        finally:
            self._ear.forget()
            if self._speaking is not None:
                self._speaking.cancel()
            self.writer.close()

    async def handle_event(self, event: Event) -> bool:
        if event.type == "audio-chunk":
            self._hear(AudioChunk.from_event(event))
        elif Transcribe.is_type(event.type):
            self._expects = Transcribe.from_event(event).name
        elif AudioStart.is_type(event.type):
            self._ear.begin(self._expects)
        elif AudioStop.is_type(event.type):
            self._reply(Transcript(text=self._ear.end()).event())
        elif Synthesize.is_type(event.type):
            self._speak(Synthesize.from_event(event).text)
        elif Describe.is_type(event.type):
            self._reply(self._speech.describe().event())
        elif Ping.is_type(event.type):
            self._reply(Pong(Ping.from_event(event).text).event())
        return True

    def _reply(self, event: Event) -> None:
        self.writer.write(encode(event))

    def _hear(self, chunk: AudioChunk) -> None:
        if (chunk.width, chunk.channels) != (2, 1) or chunk.rate not in (8000, 16000) or len(chunk.audio) % 2:
            self._reply(Error(_UNSUPPORTED, "unsupported_audio").event())
            self._ear.forget()
        else:
            self._ear.hear(chunk.audio, chunk.rate)

    def _speak(self, text: str) -> None:
        """One clause after the other; meanwhile the client is still heard."""
        if not isinstance(text, str):
            raise TypeError(f"text is {text!r}")
        self._speaking = asyncio.create_task(self._spoken(text, self._speaking))

    async def _spoken(self, text: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        loop = asyncio.get_running_loop()
        stopped = False

        def send(samples: bytes) -> None:
            if not self.writer.is_closing():
                self.writer.write(encode_audio(samples, VOICE_RATE_HZ))

        def on_sound(samples: bytes) -> bool:
            loop.call_soon_threadsafe(send, samples)
            return not stopped

        self._reply(AudioStart(VOICE_RATE_HZ, 2, 1).event())
        try:
            await loop.run_in_executor(self._speech.mouth, self._speech.voice.speak, text, on_sound)
            self._reply(AudioStop().event())
            await self.writer.drain()
        except OSError as error:
            log.debug("speech_client_lost", error=str(error))
        finally:
            stopped = True


async def serve(uri: str, speech: Speech, make_ear: Callable[[], Ear], with_parent: bool) -> bool:
    """Serves until SIGTERM (false) or, if it was started to be ``with_parent``, until that is gone (true)."""

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection:
        return Connection(speech, make_ear(), reader, writer)

    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(AsyncServer.from_uri(uri).run(connected))
        waits = [serving]
        if with_parent:
            waits.append(tasks.create_task(_input_ended()))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        orphaned = not serving.done()
        for wait in waits:
            wait.cancel()
    return orphaned


async def _input_ended() -> None:
    """The other end of the standard input is closed when its process dies, however it dies."""
    reader = await async_get_stdin()
    while await reader.read(_READ_BYTES):
        pass


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speech recognition and voice over the Wyoming protocol.")
    parser.add_argument("--uri", required=True, help="unix:///PATH or tcp://HOST:PORT")
    parser.add_argument("--voice", default="slt", choices=VOICES)
    parser.add_argument("--phrases", type=Path, help="file of expected questions, one a line")
    parser.add_argument("--names", type=Path, help="file of more personal names, one a line")
    parser.add_argument("--nice", type=int, default=0, help="step back behind other processes this much")
    parser.add_argument("--parents-folder", type=Path, help="stop when the standard input ends, and remove this folder")
    return parser.parse_args(given)


def _lines(path: Path | None) -> list[str]:
    return path.read_text("utf-8").splitlines() if path else []


def _log_as_json() -> None:
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main(given: Sequence[str] | None = None) -> int:
    arguments = _arguments(sys.argv[1:] if given is None else given)
    _log_as_json()
    # Ctrl-C reaches the whole terminal; the engine it is meant for ends this process in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(arguments.nice)
    try:
        from providers.local.speech.recognizer import Ear, Recognizer
    except ImportError as error:
        reason = f"{_RECOGNITION_MISSING} ({error})"
        log.error("speech_worker_failed", code="recognition_missing", reason=reason)
        return 1
    try:
        flite = Flite(arguments.voice)
    except FliteMissingError as error:
        log.error("speech_worker_failed", code="voice_missing", reason=str(error))
        return 1
    models = expectations(_lines(arguments.phrases), _lines(arguments.names))
    parents_folder = arguments.parents_folder
    with tempfile.TemporaryDirectory(prefix="speech-", ignore_cleanup_errors=True) as folder:
        recognizer = Recognizer(models, by_rules(flite), Path(folder))
        recognizer.warm_up(_DECODERS)
        speech = Speech(recognizer, Voice(flite, arguments.voice))
        log.info("speech_worker_started", voice=arguments.voice)
        with_parent = parents_folder is not None
        orphaned = asyncio.run(serve(arguments.uri, speech, partial(Ear, recognizer), with_parent))
    if orphaned and parents_folder is not None:
        # A parent that was killed cannot do it.
        shutil.rmtree(parents_folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
