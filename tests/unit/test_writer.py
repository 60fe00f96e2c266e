from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from remadom.data.writer import streamed
from remadom.errors import InputError


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_blocks_make_the_matrix(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    values = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    obs = pd.DataFrame({"batch": pd.Categorical(list("aabbaab"))}, index=[f"c{i}" for i in range(7)])
    var = pd.DataFrame(index=["x", "y", "z"])
    for _ in range(2):  # the second replaces the first
        with streamed(path, obs, var, layers=["lower"], uns={"about": {"level": 0.9}}) as blocks:
            for at in (slice(0, 4), slice(4, 7)):
                blocks.append(X=values[at], lower=values[at] - 1)
    found = ad.read_zarr(path) if suffix == ".zarr" else ad.read_h5ad(path)
    assert np.array_equal(found.X, values)
    assert np.array_equal(found.layers["lower"], values - 1)
    assert found.obs["batch"].tolist() == list("aabbaab")
    assert found.var_names.tolist() == ["x", "y", "z"]
    assert found.uns["about"]["level"] == 0.9
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_an_error_leaves_what_was_there(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    frame = pd.DataFrame(index=["a", "b"])
    with streamed(path, frame, frame) as blocks:
        blocks.append(X=np.ones((2, 2)))
    with pytest.raises(AssertionError, match="every cell"), streamed(path, frame, frame) as blocks:
        blocks.append(X=np.zeros((1, 2)))
    found = ad.read_zarr(path) if suffix == ".zarr" else ad.read_h5ad(path)
    assert (found.X == 1).all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_another_suffix_is_refused(tmp_path):
    frame = pd.DataFrame(index=["a"])
    with (
        pytest.raises(InputError, match=r"suffix is '.csv', expected .h5ad or .zarr"),
        streamed(tmp_path / "out.csv", frame, frame),
    ):
        pass
