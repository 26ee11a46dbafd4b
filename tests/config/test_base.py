import hashlib

import pytest

from rlvo.config.base import content_hash
from rlvo.config.training import AugmentationConfig


def test_a_hash_is_that_of_the_canonical_json() -> None:
    assert content_hash({"b": [1, 2.5], "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":[1,2.5]}').hexdigest()
    text = b'{"flip":0.5,"intensity":0.0,"shift_voxels":1}'
    assert content_hash(AugmentationConfig()) == hashlib.sha256(text).hexdigest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash(float("nan"))
