"""By hand: what a configuration refuses, wherever it is made."""

import json

import numpy as np
import pytest

from dqgan_tf import config
from dqgan_tf.config import CompressionConfig, RunConfig


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, -0.5, "4", None, True])
def test_a_bucket_is_a_number_of_mebibytes(value):
    with pytest.raises(ValueError, match="`bucket_mb` must be .* A value that works is bucket_mb=4.0. Received: buck"):
        CompressionConfig(bucket_mb=value)
    saved = json.loads(RunConfig().to_json())
    saved["compression"]["bucket_mb"] = value
    with pytest.raises(ValueError, match="`bucket_mb` must be"):
        config.from_json(json.dumps(saved))


@pytest.mark.parametrize("value", [0, 0.0, 4, 0.25, np.float64(1.5)])
def test_buckets_of_any_size_are_fine(value):
    assert CompressionConfig(bucket_mb=value).bucket_mb == value
