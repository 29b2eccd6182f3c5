"""Decode an audio file of any format, chunk by chunk.

libsndfile reads WAV and FLAC; FFmpeg reads everything else, and the variants that libsndfile refuses. The first bytes
decide, never the file name.
"""

from collections.abc import Generator, Iterator

import numpy as np
import soundfile

from src.media.audio.audio import Audio, check_format
from src.media.audio.declared_length import read_declared_length
from src.media.audio.ffmpeg import decode_ffmpeg
from src.media.file_type import MediaFile

CHUNK_SAMPLES = 1 << 12
# libsndfile reports a larger number of frames if a FLAC header does not declare its length.
UNKNOWN_LENGTH = 1 << 60


def decode(file: MediaFile) -> Generator[Audio]:
    """Yield consecutive chunks, all of one sample rate and number of channels.

    Raises InputError for a file without audio and, at its end, for one that is damaged or cut off: that holds less
    than its header declares.
    """
    declared = read_declared_length(file)
    seconds = 0.0
    for chunk in _decode(file):
        seconds += chunk.seconds
        yield chunk
    if declared is not None:
        declared.check(seconds, file)
    if seconds == 0:
        raise file.error("holds no samples; a file with audio is needed")


def _decode(file: MediaFile) -> Iterator[Audio]:
    sound_file = _open_soundfile(file)
    return decode_ffmpeg(file) if sound_file is None else _decode_soundfile(sound_file, name=file.name)


def _open_soundfile(file: MediaFile) -> soundfile.SoundFile | None:
    """The file opened by libsndfile, or None if FFmpeg has to read it."""
    head = file.head
    if not (head[:4] == b"fLaC" or (head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE")):
        return None
    try:
        sound_file = soundfile.SoundFile(file.path)
    except soundfile.LibsndfileError:
        return None
    if 0 < sound_file.frames < UNKNOWN_LENGTH:
        return sound_file
    sound_file.close()  # written to a pipe, without a length: FFmpeg reads such files to their end
    return None


def _decode_soundfile(sound_file: soundfile.SoundFile, *, name: str) -> Iterator[Audio]:
    """Up to the end or the first damage, which `DeclaredLength.check` then reports."""
    with sound_file:
        check_format(sample_rate=sound_file.samplerate, num_channels=sound_file.channels, name=name)
        while True:
            try:
                samples_NC = sound_file.read(CHUNK_SAMPLES, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                return
            if not len(samples_NC):
                return
            yield Audio(samples_CN=np.ascontiguousarray(samples_NC.T), sample_rate=sound_file.samplerate)
