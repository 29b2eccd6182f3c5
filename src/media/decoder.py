"""A sound file of any format becomes blocks of samples.

WAV and FLAC are read by libsndfile, everything else (and their rarer variants) by FFmpeg. Which it is,
the first bytes tell, never the name.
"""

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import soundfile

from src.media.block import Block, check_format
from src.media.errors import InputError
from src.media.ffmpeg import ffmpeg_blocks
from src.media.promise import read_promise
from src.media.upload import describe, read_head

BLOCK_SAMPLES = 1 << 15


def decode(path: Path, *, name: str) -> Generator[Block]:
    """Yield the sound of a file block by block, all with the same rate and channels.

    Raises InputError for what holds no sound, or is damaged, and, on reaching the end, for a file that
    holds less than its header promises.
    """
    promise = read_promise(path)
    found = 0.0
    for block in _blocks(path, name=name):
        found += block.samples_CN.shape[1] / block.rate
        yield block
    if promise is not None:
        promise.check(found, path, name=name)
    if found == 0:
        raise InputError(f"{name}: {describe(path)} holds no samples; a file with sound is needed")


def _blocks(path: Path, *, name: str) -> Iterator[Block]:
    file = _open_soundfile(path)
    if file is None:
        return ffmpeg_blocks(path, name=name)
    return _soundfile_blocks(file, path, name=name)


def _open_soundfile(path: Path) -> soundfile.SoundFile | None:
    """The file opened by libsndfile, or None when that is not its reader."""
    head = read_head(path)
    if not (head[:4] == b"fLaC" or (head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE")):
        return None
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return None
    if file.frames > 0:
        return file
    file.close()  # a length of 0 in the header: FFmpeg reads such streams to their end
    return None


def _soundfile_blocks(file: soundfile.SoundFile, path: Path, *, name: str) -> Iterator[Block]:
    with file:
        check_format(rate=file.samplerate, channels=file.channels, name=name)
        while True:
            try:
                samples_NC = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise InputError(f"{name}: {describe(path)} is damaged ({error}); sound is needed") from error
            if not len(samples_NC):
                return
            yield Block(samples_CN=np.ascontiguousarray(samples_NC.T), rate=file.samplerate)
