"""Layers against torch's, on the same weights: outputs, and gradients in the input and in every parameter."""

import ours
import pytest
from references import make


@pytest.mark.parametrize("dtype", ours.TOLERANCE)
@pytest.mark.parametrize("name", make.LAYERS)
def test_agrees_with_torch(name, dtype):
    ours.assert_agree(ours.layer(name, dtype), make.load(f"layers/{name}"), dtype)
