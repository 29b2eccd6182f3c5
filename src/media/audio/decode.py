"""A sound file of any format becomes blocks of samples.

WAV and FLAC are read by libsndfile, everything else (and their rarer variants) by FFmpeg. Which it is,
the first bytes tell, never the name.
"""

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import soundfile

from src.errors import InputError
from src.media.audio.chunk import AudioChunk, check_format
from src.media.audio.declared_length import read_declared_length
from src.media.audio.ffmpeg import ffmpeg_blocks
from src.media.file_type import describe_file, read_head

BLOCK_SAMPLES = 1 << 12
# What libsndfile answers when a FLAC header does not give its length is beyond this.
NO_LENGTH = 1 << 60


def decode(path: Path, *, name: str) -> Generator[AudioChunk]:
    """Yield the sound of a file block by block, all with the same rate and channels.

    Raises InputError for what holds no sound, and, on reaching the end, for a file that is damaged or cut
    off, so that it holds less than its header promises.
    """
    promise = read_declared_length(path)
    found = 0.0
    for block in _blocks(path, name=name):
        found += block.samples_CN.shape[1] / block.sample_rate
        yield block
    if promise is not None:
        promise.check(found, path, name=name)
    if found == 0:
        raise InputError(f"{name}: {describe_file(path)} holds no samples; a file with sound is needed")


def _blocks(path: Path, *, name: str) -> Iterator[AudioChunk]:
    file = _open_soundfile(path)
    if file is None:
        return ffmpeg_blocks(path, name=name)
    return _soundfile_blocks(file, name=name)


def _open_soundfile(path: Path) -> soundfile.SoundFile | None:
    """The file opened by libsndfile, or None when that is not its reader."""
    head = read_head(path)
    if not (head[:4] == b"fLaC" or (head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE")):
        return None
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return None
    if 0 < file.frames < NO_LENGTH:
        return file
    file.close()  # written to a pipe, without a length: FFmpeg reads such to their end
    return None


def _soundfile_blocks(file: soundfile.SoundFile, *, name: str) -> Iterator[AudioChunk]:
    """Up to the end or the first damage, of which the header's promise then tells."""
    with file:
        check_format(sample_rate=file.samplerate, num_channels=file.channels, name=name)
        while True:
            try:
                samples_NC = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                return
            if not len(samples_NC):
                return
            yield AudioChunk(samples_CN=np.ascontiguousarray(samples_NC.T), sample_rate=file.samplerate)
