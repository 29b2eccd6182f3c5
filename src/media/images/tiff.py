"""Gray TIFF images of 10 to 16 bits that Pillow does not open by itself.

H height, W width.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import II, MM, OPEN_INFO, TiffImageFile

DECODER = "bit_packed"
BIT_PACKED = {10: "I;10", 14: "I;14"}
"""Raw modes by bits; Pillow knows no others than I;12 and I;16."""


class BitPackedDecoder(ImageFile.PyDecoder):
    """Uncompressed samples of any number of bits, most significant first; rows are padded to whole bytes."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        """Read all rows of a strip or tile from the file."""
        assert self.fd is not None
        bits, width = self.args[0], self.state.xsize
        stride = -(-width * bits // 8)
        bytes_HB = np.frombuffer(ImageFile._safe_read(self.fd, stride * self.state.ysize), np.uint8)
        rows = []
        for row_B in bytes_HB.reshape(-1, stride):
            digits_WD = np.unpackbits(row_B, count=width * bits).reshape(width, bits)
            rows.append((digits_WD @ (1 << np.arange(bits - 1, -1, -1))).astype("<u2").tobytes())
        self.set_as_raw(b"".join(rows), "I;16")
        return -1, 0


def register() -> None:
    """Let Pillow open these images, which its readers of other images do not notice."""
    Image.register_decoder(DECODER, BitPackedDecoder)
    for prefix in (II, MM):
        for photometric in (0, 1):
            key = (prefix, photometric, (1,), 1)
            OPEN_INFO.setdefault((*key, (12,), ()), ("I;16", "I;12"))
            OPEN_INFO.setdefault((*key, (16,), ()), ("I;16B", "I;16B") if prefix == MM else ("I;16", "I;16"))
            for bits, raw_mode in BIT_PACKED.items():
                OPEN_INFO.setdefault((*key, (bits,), ()), ("I;16", raw_mode))


def use_decoder(image: Image.Image) -> None:
    """Let the decoder above read an opened image of 10 or 14 bits."""
    if not isinstance(image, TiffImageFile):
        return
    for bits, raw_mode in BIT_PACKED.items():
        image.tile = [
            tile._replace(codec_name=DECODER, args=(bits,))
            if tile.codec_name == "raw" and isinstance(tile.args, tuple) and tile.args[0] == raw_mode
            else tile
            for tile in image.tile
        ]
