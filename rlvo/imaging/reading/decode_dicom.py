"""Decodes compressed DICOM files in a program of its own: on a damaged stream GDCM ends the process it runs in.

`python -I decode_dicom.py FOLDER` reads file names from standard input, separated by NUL, and writes the frames of the
Nth file [frames, rows, columns], as stored, to `FOLDER/N.npy`. It imports nothing from rlvo, so that it also runs where
rlvo comes with a registered model and is not installed.
"""

import os
import resource
import sys
from pathlib import Path

import numpy as np
from pydicom.pixels import pixel_array

MEMORY_BYTES = 4 << 30


def main() -> None:
    """Decode files up to the first that cannot be decoded."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for number, name in enumerate(sys.stdin.buffer.read().split(b"\0")):
        frames = pixel_array(os.fsdecode(name), decoding_plugin="gdcm", correct_unused_bits=False)
        np.save(Path(sys.argv[1], f"{number}.npy"), frames.reshape(-1, *frames.shape[-2:]), allow_pickle=False)


if __name__ == "__main__":
    main()
