"""Measurements, as ratios within one run: `python -m benchmarks --help`."""

import logging
import warnings

# MONAI warns, in every process, about a decoder that is not used here.
warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
