"""From one sample rate to another while the sound streams: band-limited, even, 3 ms behind.

FFmpeg's resampler does the work, through PyAV. Importing that takes 0.1 s and 19 MiB, so it happens with the first
resampler; ``load`` has it happen earlier. It sits in a filter graph of its own because PyAV's ``AudioResampler``
makes graphs that start a thread per core each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.frame import Frame

_SAMPLE_BYTES = 2

# Of the lower rate's Nyquist frequency N: flat (0.1 dB) up to 0.85 N, which at 8 kHz is the telephone's 3.4 kHz;
# aliases and images at -48 dB from 1.02 N on and below -70 dB from 1.05 N on. FFmpeg's own values are 0.9 ms faster,
# and let through -14 dB at 1.02 N and -43 dB at 1.1 N.
_CUTOFF: Final = 0.94
_FILTER: Final = {"filter_size": "44", "filter_type": "kaiser", "kaiser_beta": "6.5"}


def load() -> None:
    """Imports what the first resampler would. A process whose wires and providers differ in rate calls it at start."""
    import av.filter.graph  # noqa: F401 - kept by the interpreter


class Resampler:
    """Turns one stream of slin into another rate; loud sound is clipped, never wrapped.

    How the stream is cut into chunks makes no difference to what comes out in all. The first output lacks the lag of
    the filter; from then on 20 ms in give 20 ms out.
    """

    __slots__ = ("_graph", "_half_sample", "_make_frame", "_pull", "_push", "_source_hz", "_target_hz")

    def __init__(self, source_hz: int, target_hz: int) -> None:
        from av.audio.frame import AudioFrame

        self._make_frame = AudioFrame
        self._source_hz = source_hz
        self._target_hz = target_hz
        self._half_sample = b""
        self._begin()

    def feed(self, slin: bytes) -> bytes:
        """Takes any length; half a sample at the end waits for the next chunk."""
        if self._half_sample:
            slin = self._half_sample + slin
            self._half_sample = b""
        samples, odd = divmod(len(slin), _SAMPLE_BYTES)
        if odd:
            self._half_sample = slin[-1:]
            slin = slin[:-1]
        if not samples:
            return b""
        frame = self._make_frame(format="s16", layout="mono", samples=samples)
        frame.sample_rate = self._source_hz
        frame.planes[0].update(slin)
        self._push(frame)
        return self._ready()

    def drain(self) -> bytes:
        """Ends the stream: what the filter still holds. All outputs together are as long as all inputs were.

        What is fed next begins a new stream.
        """
        self._push(None)
        tail = self._ready()
        self._half_sample = b""
        self._begin()
        return tail

    def _begin(self) -> None:
        from av.filter.graph import Graph

        graph = Graph()
        graph.threads = 1
        source = graph.add("abuffer", sample_rate=str(self._source_hz), sample_fmt="s16", channel_layout="mono")
        # FFmpeg takes the cutoff for a share of the target's Nyquist frequency, also where the source's is the lower.
        cutoff = _CUTOFF * min(1, self._source_hz / self._target_hz)
        resample = graph.add("aresample", sample_rate=str(self._target_hz), cutoff=str(cutoff), **_FILTER)
        sink = graph.add("abuffersink")
        source.link_to(resample)
        resample.link_to(sink)
        graph.configure()
        self._graph = graph  # its ends do not keep it alive
        self._push: Callable[[Frame | None], None] = source.push
        self._pull = cast("Callable[[], AudioFrame]", sink.pull)

    def _ready(self) -> bytes:
        pieces: list[bytes] = []
        try:
            while True:
                frame = self._pull()
                pieces.append(bytes(frame.planes[0])[: frame.samples * _SAMPLE_BYTES])
        except (BlockingIOError, EOFError):  # nothing more of this input; nothing more of this stream
            return b"".join(pieces)
