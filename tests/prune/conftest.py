from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def unlabelled(tmp_path):
    """The digits as an array of pixels alone, as --data."""
    from sklearn.datasets import load_digits

    np.savez(tmp_path / "mine.npz", images=(15 * load_digits().images).astype(np.uint8))
    return f"npz:{tmp_path / 'mine.npz'}"
