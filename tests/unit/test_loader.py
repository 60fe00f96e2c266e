from __future__ import annotations

import threading
import traceback
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from remadom.data.loader import AHEAD, Loader, dataloader, groups_of, map_ahead, times_of
from remadom.data.sampler import Draw, Sampler
from remadom.data.settings import DataSettings
from remadom.data.source import Source
from remadom.errors import InputError
from remadom.types import Batch, Rows

N = 41
NOBODY = np.zeros(0, dtype=np.int64)


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    """RNA in all cells but the last ten, ATAC in the odd cells, proteins (dense) in the first twenty."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "has_rna": np.arange(N) < N - 10,
            "has_atac": (np.arange(N) % 2 == 1) | (np.arange(N) >= N - 10),
            "has_adt": np.arange(N) < 20,
            "batch": pd.Categorical(np.where(np.arange(N) % 3, "second", "first")),
            "time": np.arange(N) / 2,
        },
        index=[f"c{i}" for i in range(N)],
    )
    counts = rng.poisson(0.15, (N, 30)).astype(np.float32)
    counts[3] = 0
    return ad.AnnData(
        sp.csr_matrix(counts),
        obs=obs,
        obsm={
            "X_atac": sp.random(N, 50, 0.1, format="csr", random_state=1, dtype=np.float32),
            "X_adt": rng.poisson(5, (N, 6)).astype(np.float32),
        },
    )


@pytest.fixture(scope="module")
def source(adata: ad.AnnData) -> Source:
    rep = np.random.default_rng(2).normal(size=(N, 4)).astype(np.float32)
    return Source.open(adata).with_rep("atac", rep)


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    found = {"index": batch.index, "seed": batch.seed}
    for name in ("x", "rep", "has", "library", "groups"):
        for key, value in getattr(batch, name).items():
            found[f"{name}.{key}"] = value.dense() if isinstance(value, Rows) else value
    return found if batch.time is None else {**found, "time": batch.time}


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        left, right = tensors(one), tensors(other)
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert torch.equal(value, right[key]), key


def test_batches_hold_what_the_source_holds(source: Source) -> None:
    settings = DataSettings()
    groups, times = groups_of(source, settings), times_of(source, settings)
    loader = Loader(source, np.arange(N), batch_size=8, groups=groups, time=times, library={"rna": 7.0})
    assert len(loader) == 6
    batches = list(loader)
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 8, 1]
    for batch in batches:
        index = batch.index.numpy()
        assert batch.modalities == ("rna", "atac", "adt")
        assert batch.seed.all()
        for modality in source.modalities:
            expected = source.rows(modality, index).toarray()
            assert np.array_equal(batch.x[modality].dense(), expected)
            assert batch.x[modality].values.dtype == torch.float32
            assert np.array_equal(batch.has[modality], source.has[modality][index])
        assert list(batch.rep) == ["atac"]
        assert np.array_equal(batch.rep["atac"].dense(), source.reps["atac"][index])
        assert list(batch.library) == ["rna"]
        totals = source.rows("rna", index).toarray().sum(axis=1)
        expected = np.where(source.has["rna"][index], np.where(totals > 0, totals, 1.0), 7.0)
        assert np.array_equal(batch.library["rna"], expected)
        assert batch.groups["batch"].tolist() == [int(i % 3 > 0) for i in index]
        assert batch.groups["dataset"].tolist() == [0] * len(index)
        assert batch.time is not None
        assert batch.time.tolist() == [i / 2 for i in index]
    assert loader.groups == {"batch": ("first", "second"), "dataset": ("all",)}
    assert np.concatenate([batch.index for batch in batches]).tolist() == list(range(N))


def test_a_measured_cell_without_counts_is_present_with_library_one(source: Source) -> None:
    batch = Loader(source, np.array([3]), batch_size=4, library={"rna": 7.0}).batch(
        Draw(np.array([3]), NOBODY)
    )
    assert batch.has["rna"].tolist() == [True]
    assert batch.library["rna"].tolist() == [1.0]


def test_sparse_blocks_stay_sparse_and_dense_ones_dense(source: Source) -> None:
    batch = next(iter(Loader(source, np.arange(10), batch_size=10)))
    assert batch.x["rna"].is_sparse
    assert batch.x["atac"].is_sparse
    assert not batch.x["adt"].is_sparse


def test_a_batch_in_which_no_cell_has_a_modality(source: Source) -> None:
    batch = next(iter(Loader(source, np.array([32, 34, 36]), batch_size=3, library={"rna": 5.0})))
    for modality in ("rna", "adt"):
        assert not batch.has[modality].any()
        assert not batch.x[modality].dense().any()
        assert len(batch.encoder_rows(modality)) == 0
    assert batch.library["rna"].tolist() == [5.0] * 3
    assert len(batch.encoder_rows("atac")) == 3


def test_groups_have_the_same_codes_in_every_part(source: Source) -> None:
    groups = groups_of(source, DataSettings())
    seconds = np.array([1, 2, 4])
    loader = Loader(source, seconds, batch_size=3, groups=groups)
    assert loader.groups["batch"] == ("first", "second")
    assert next(iter(loader)).groups["batch"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("key", ["batch_key", "dataset_key", "time_key"])
def test_a_column_that_the_configuration_names_must_exist(source: Source, key: str) -> None:
    settings = DataSettings.model_validate({key: "bach"})
    with pytest.raises(InputError, match="'bach'"):
        (times_of if key == "time_key" else groups_of)(source, settings)


def test_there_is_no_time_where_there_is_no_such_column(adata: ad.AnnData) -> None:
    without = adata.copy()
    del without.obs["time"]
    source = Source.open(without)
    loader = Loader(source, np.arange(4), batch_size=4, time=times_of(source, DataSettings()))
    assert next(iter(loader)).time is None


def test_the_order_depends_on_seed_and_epoch_alone(source: Source) -> None:
    def order(loader: Loader) -> list[int]:
        return np.concatenate([batch.index for batch in loader]).tolist()

    cells = np.arange(5, 35)
    loader = Loader(source, cells, batch_size=7, shuffle=True, seed=11)
    zero = order(loader)
    loader.set_epoch(3)
    third = order(loader)
    assert third == np.random.default_rng([11, 3]).permutation(cells).tolist()
    assert third != zero
    assert sorted(third) == sorted(zero) == cells.tolist()
    loader.set_epoch(0)
    assert order(loader) == zero
    assert order(Loader(source, cells, batch_size=7, shuffle=True, seed=12)) != zero


def test_batches_prepared_ahead_are_those_prepared_in_place(source: Source) -> None:
    def loader() -> Loader:
        return Loader(source, np.arange(N), batch_size=6, shuffle=True, seed=5, library={"rna": 3.0})

    first, again = loader(), loader()
    assert_same(list(first), list(again))
    assert_same(list(first), [first.batch(index) for index in first.sampler.batches(0)])


def test_no_cells_give_no_batches(source: Source) -> None:
    loader = Loader(source, np.array([], dtype=np.int64), batch_size=6)
    assert len(loader) == 0
    assert list(loader) == []


def test_a_batch_size_must_be_positive() -> None:
    with pytest.raises(InputError, match="batch_size"):
        Sampler(np.arange(3), batch_size=0)


def test_results_are_made_ahead_but_not_far() -> None:
    made: list[int] = []
    results = map_ahead(made.append, range(100))
    for _ in range(5):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert 5 <= len(made) <= 5 + AHEAD + 1


def test_the_consumer_works_while_the_next_result_is_made() -> None:
    started = threading.Event()

    def make(item: int) -> int:
        if item == 1:
            started.set()
        return item

    results = map_ahead(make, range(3))
    next(results)
    assert started.wait(5.0)
    assert list(results) == [1, 2]


def test_leaving_early_leaves_no_thread(source: Source) -> None:
    loader = Loader(source, np.arange(N), batch_size=1)
    before = threading.active_count()
    for _ in range(30):
        for batch in loader:
            assert len(batch) == 1
            break
        assert threading.active_count() == before

    def consume() -> None:
        for _ in loader:
            raise KeyError("consumer")

    for _ in range(30):
        with pytest.raises(KeyError):
            consume()
        assert threading.active_count() == before


def test_leaving_early_makes_no_further_result() -> None:
    started, second, leave = [], threading.Event(), threading.Event()

    def make(item: int) -> None:
        started.append(item)
        if item:
            second.set()
            assert leave.wait(5.0)

    results = map_ahead(make, range(50))
    next(results)
    assert second.wait(5.0)
    threading.Timer(0.2, leave.set).start()
    results.close()  # type: ignore[attr-defined]
    assert started == [0, 1]


def test_an_error_of_the_thread_reaches_the_consumer_with_its_traceback() -> None:
    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ZeroDivisionError("three")
        return item

    before = threading.active_count()
    results = map_ahead(fail_at_three, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="three") as caught:
        next(results)
    assert "fail_at_three" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert threading.active_count() == before


def config(batch_size: int = 16, **data: object) -> SimpleNamespace:
    return SimpleNamespace(
        data=DataSettings.model_validate(data), optim=SimpleNamespace(batch_size=batch_size, seed=4)
    )


def test_dataloader_fits_on_the_cells_that_it_gives_out(adata: ad.AnnData) -> None:
    cells = np.arange(N) < 20
    cfg = config(preprocess={"rna": {"hvg": 5, "flavor": "variance"}, "atac": {"n_top": 7}})
    loader = dataloader(adata, cfg, cells=cells)
    first = next(iter(loader))
    assert len(first) == 16
    assert sorted(np.concatenate([batch.index for batch in loader]).tolist()) == list(range(20))
    assert first.x["rna"].n_features == 5
    assert first.x["atac"].n_features == 7
    assert set(first.x["atac"].values.tolist()) <= {0.0, 1.0}
    assert next(iter(dataloader(adata, cfg, cells=cells, shuffle=False))).index.tolist() == list(range(16))
    totals = np.asarray(adata.X[:20].toarray())[:, loader.source.features["rna"].map(int)].sum(axis=1)
    late = loader.batch(Draw(np.array([N - 1]), NOBODY))
    assert late.library["rna"].tolist() == [float(np.median(totals)) or 1.0]


def test_dataloader_takes_keys_and_sources(adata: ad.AnnData, source: Source) -> None:
    only = dataloader(adata, config(), {"adt": "obsm:X_adt"}, shuffle=False)
    assert next(iter(only)).modalities == ("adt",)
    assert next(iter(dataloader(source, config(modalities=["rna"])))).modalities == ("rna", "atac", "adt")
    with pytest.raises(InputError, match="x_keys"):
        dataloader(source, config(), {"adt": "obsm:X_adt"})
