"""The format of TFRecord files, read from any byte on: `tf.data` reads them from the first record only.

A record is its length (8 bytes, little endian), a checksum of that, its data, and a checksum of that. Checksums are
CRC-32C, rotated by 15 bits, plus a constant.

Reference:
    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_HEADER, _FOOTER = 12, 4
_MASK = 0xA282EAD8


def scan_records(file: BinaryIO, path: str) -> list[int]:
    """The byte at which each record begins. Reads the lengths, and seeks over the data.

    Args:
        file: Open binary file.
        path: What an error calls it.

    Raises:
        ValueError: If it is no TFRecord file, or ends within a record.
    """
    end = file.seek(0, os.SEEK_END) if not _is_compressed(file) else None
    offsets, offset = [], 0
    file.seek(0)
    while header := file.read(_HEADER):
        length = _length(header)
        if length is None:
            raise ValueError(f"{path} is no TFRecord file, or broken at byte {offset}. Write it anew or leave it out.")
        offsets.append(offset)
        offset += _HEADER + length + _FOOTER
        file.seek(offset - 1)
        if (end is not None and offset > end) or not file.read(1):
            raise ValueError(f"{path} ends within record {len(offsets) - 1}. Copy or write it anew.")
    return offsets


def read_records(file: BinaryIO, offset: int, count: int) -> Iterator[bytes | None]:
    """Yields the data of records from a byte on, `None` for one whose checksum is wrong; fewer where the file ends."""
    file.seek(offset)
    for _ in range(count):
        length = _length(file.read(_HEADER))
        if length is None:
            return
        data, footer = file.read(length), file.read(_FOOTER)
        if len(footer) < _FOOTER:
            return
        yield data if struct.unpack("<I", footer)[0] == masked_crc(data) else None


def masked_crc(data: bytes) -> int:
    """The checksum of bytes as TFRecord files store it."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def _length(header):
    """Length of a record by its header, `None` if the header is broken."""
    if len(header) < _HEADER:
        return None
    length, crc = struct.unpack("<QI", header)
    return length if crc == masked_crc(header[:8]) else None


def _is_compressed(file):
    # Seeking to the end of a compressed file would decompress it twice.
    return type(file).__name__ == "CompressedFile"
