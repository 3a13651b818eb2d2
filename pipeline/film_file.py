"""An H.264 video in an mp4 file, picture by picture, with the times and the sound of another one.

PyAV is imported where it is used: maps alone do without.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.flow_ahead import ahead

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet

CODECS = ("libx264", "libopenh264")
"""Encoders of H.264, the better one first; the wheels of PyAV have the first."""
QUALITY = {"crf": "20", "preset": "veryfast", "bf": "0"}
"""Of libx264: hardly to be told from the source, and quick beside a network. Without B-frames,
which at uneven times make an mp4 file end too early."""
TICKS = 90_000
"""Of the video's clock in a second, as is usual; it divides by 24, 25, 30 and 60."""
COPIED = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})
"""Codecs of sound that an mp4 file holds."""
AHEAD = 64
"""Packets of sound that are read ahead."""


def codec() -> str:
    """Return the encoder of H.264 that is here. Raises UsageError, with the remedy, for none."""
    if importlib.util.find_spec("av") is None:
        raise UsageError(
            "the overlay video needs PyAV. Install it: pip install 'vsodpipe[video]', or use "
            "--no-overlay for the maps alone."
        )
    import av

    for name in CODECS:
        if name in av.codecs_available:
            return name
    raise UsageError(
        f"the overlay video needs an encoder of H.264, and this PyAV has none of "
        f"{', '.join(CODECS)}. Install its wheel: pip install --force-reinstall "
        "--only-binary :all: av, or use --no-overlay."
    )


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """Say of an error of FFmpeg in the block, which writes `file`, what may help."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise VsodpipeError(
            f"{file}: could not be written: {error.strerror}. Leave out --audio, or make the maps "
            "alone with --no-overlay."
        ) from error


def comment(file: Path) -> str:
    """Return the comment in a video file's header; nothing where there is none, or no video."""
    import av

    try:
        with av.open(str(file.absolute())) as container:
            return container.metadata.get("comment", "")
    except (av.FFmpegError, ValueError):
        return ""


class Sound:
    """The sound of a video file, copied as it is; times are those from its first frame."""

    def __init__(self, file: Path) -> None:
        import av

        self._stack = ExitStack()
        container = self._stack.enter_context(av.open(str(file.absolute())))
        found, video = container.streams.audio, container.streams.video[0]
        self.stream: AudioStream | None = found[0] if found else None
        self._start = Fraction((video.start_time or 0) * (video.time_base or 0))
        self._waiting: Packet | None = None
        self._packets: Iterator[Packet] = iter(())
        if self.stream is not None:
            # the last packet is empty
            packets = (p for p in container.demux(self.stream) if p.dts is not None)
            self._packets = self._stack.enter_context(ahead(packets, AHEAD))

    def until(self, time: float) -> Iterator[Packet]:
        """Yield the packets that begin before `time`, in seconds, and were not yielded yet."""
        while True:
            packet = self._waiting or next(self._packets, None)
            self._waiting = packet
            if packet is None or packet.time_base is None or packet.dts is None:
                return
            if packet.dts * packet.time_base - self._start >= time:
                return
            self._waiting = None
            shift = round(self._start / packet.time_base)
            packet.dts -= shift
            packet.pts = None if packet.pts is None else packet.pts - shift
            yield packet

    def close(self) -> None:
        """Close the file."""
        self._stack.close()


def sound(file: Path | None) -> Sound | None:
    """Return the sound of a video file, None where it has none; a folder of frames has none.

    Raises DataError for sound that an mp4 file does not hold.
    """
    if file is None:
        return None
    found = Sound(file)
    if found.stream is None:
        found.close()
        return None
    name = found.stream.codec_context.name
    if name not in COPIED:
        found.close()
        raise DataError(
            f"{file}: its sound is {name}, which an mp4 file does not hold. Leave out --audio, or "
            f"convert it: ffmpeg -i {file} -c:v copy -c:a aac out.mp4"
        )
    return found


class Writer:
    """A video file that is being written; `close` ends it, also after an error."""

    def __init__(
        self,
        file: Path,
        size: tuple[int, int],
        times: NDArray[np.float64],
        mark: str,
        sound: Sound | None,
    ) -> None:
        import av

        self._times = np.rint(times * TICKS).astype(int).tolist()
        rate = (len(times) - 1) / float(times[-1]) if len(times) > 1 else 24.0
        step = round(TICKS / rate)
        self._lasts = dict(zip(self._times, [*np.diff(self._times).tolist(), step], strict=True))
        # moov first: browsers begin to play before they have it all
        self._container = av.open(
            str(file.absolute()), "w", format="mp4", options={"movflags": "+faststart"}
        )
        self._container.metadata["comment"] = mark
        name = codec()
        options = QUALITY if name == "libx264" else {}
        about = Fraction(min(240.0, max(1.0, rate))).limit_denominator(1001)
        # (Any: by the stubs an encoder's name may also give a stream of sound)
        stream: Any = self._container.add_stream(name, rate=about, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, TICKS)
        # what players take untagged video of this height for differs
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16 to 235
        self._stream = stream
        self._sound, self._copy = sound, None
        if sound is not None and sound.stream is not None:
            self._copy = self._container.add_stream_from_template(sound.stream)
        self._frame = 0

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Add the next picture, uint8 RGB (H, W, 3)."""
        import av

        made = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        made.pts, made.time_base = self._times[self._frame], Fraction(1, TICKS)
        self._put_sound(made.pts / TICKS)
        self._put(self._stream.encode(made))
        self._frame += 1

    def finish(self) -> None:
        """Write what the encoder and the sound still hold."""
        self._put(self._stream.encode())
        self._put_sound(float("inf"))

    def _put(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            packet.duration = self._lasts[packet.pts]
            self._container.mux(packet)

    def _put_sound(self, time: float) -> None:
        if self._sound is None or self._copy is None:
            return
        for packet in self._sound.until(time):
            packet.stream = self._copy
            self._container.mux(packet)

    def close(self) -> None:
        """End the file."""
        self._container.close()
