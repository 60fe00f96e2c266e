"""Covariates: what is fitted, what is refused, what stands for the average, and what training makes of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from remadom import run
from remadom.config.build import assemble
from remadom.config.load import overlay, validate
from remadom.config.trained import Trained
from remadom.data.covariates import Covariates, fit_covariates
from remadom.data.source import Source
from remadom.errors import InputError
from remadom.train.trainer import Trainer
from remadom.utils.checkpoint import load_checkpoint, save_checkpoint
from remadom.utils.outputs import LAST

N, GENES = 240, 30


def cells(n: int = N, seed: int = 0) -> ad.AnnData:
    """Three types, and one gene that follows ``age`` alone."""
    rng = np.random.default_rng(seed)
    types, age = rng.integers(0, 3, n), rng.normal(40, 12, n)
    rate = 2 * (rng.gamma(1.0, 1.0, (3, GENES)) + 0.2)[types]
    rate[:, 0] = 4 * np.exp((age - 40) / 8)
    obs = pd.DataFrame(
        {
            "age": age,
            "sex": np.where(rng.random(n) < 0.25, "f", "m"),
            "batch": np.where(rng.random(n) < 0.5, "one", "two"),
            "cell_type": types.astype(str),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    return ad.AnnData(
        rng.poisson(rate).astype(np.float32), obs, pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    )


def raw(tmp_path: Path, **covariates: list[str]) -> dict:
    return {
        "data": {"keys": {"rna": "X"}, "covariates": covariates},
        "model": {"latent_bio": 4},
        "alignment": {},
        "optim": {"epochs": 20, "batch_size": 64, "lr": 0.005},
        "evaluation": {"figures": False},
        "logging": {"run_dir": str(tmp_path / "run")},
    }


def fit(data: ad.AnnData, train: np.ndarray | None = None, **covariates: list[str]) -> Covariates:
    settings = validate({"data": {"covariates": covariates}}).data
    return fit_covariates(opened(data), settings, np.arange(data.n_obs) if train is None else train)


def opened(data: ad.AnnData) -> Source:
    return Source.open(data, keys={"rna": "X"})


def test_values_are_standardized_and_centered_with_the_training_cells():
    data, train = cells(), np.arange(0, N, 2)
    fitted = fit(data, train, continuous=["age"], categorical=["sex"])
    values = fitted.encode(opened(data))
    assert values.dtype == np.float32
    assert fitted.names == ("age", "sex=f", "sex=m")
    age, sex = data.obs["age"].to_numpy(), data.obs["sex"].to_numpy()
    np.testing.assert_allclose(values[:, 0], (age - age[train].mean()) / age[train].std(), rtol=1e-5)
    for column, name in ((1, "f"), (2, "m")):
        np.testing.assert_allclose(values[:, column], (sex == name) - (sex[train] == name).mean(), rtol=1e-5)
    np.testing.assert_allclose(values[train].mean(0), 0, atol=1e-6)
    again = Covariates.from_state(fitted.state())
    assert again == fitted
    assert np.array_equal(again.encode(opened(data)), values)
    assert fit(data).encode(opened(data)) is None


def test_units_and_order_change_nothing():
    data, other = cells(), cells()
    other.obs["age"] = 365.25 * other.obs["age"] + 1e6
    other.obs["sex"] = pd.Categorical(other.obs["sex"], categories=["m", "none", "f"])
    data.obs["score"] = other.obs["score"] = np.arange(N)
    one = fit(data, continuous=["age", "score"], categorical=["sex"])
    two = fit(other, continuous=["score", "age"], categorical=["sex"])
    assert one.names == two.names
    np.testing.assert_allclose(one.encode(opened(data)), two.encode(opened(other)), rtol=1e-4, atol=1e-6)


def spoiled(column: str, values: object, at: int | None = None) -> ad.AnnData:
    data = cells()
    if at is None:
        data.obs[column] = values
    else:
        data.obs[column] = data.obs[column].astype(object)
        data.obs.iloc[at, data.obs.columns.get_loc(column)] = values
    return data


REFUSED = {
    "missing": (cells, {"continuous": ["aeg"]}, "covariates.continuous: no column 'aeg'.*did you mean 'age'"),
    "no number": (lambda: spoiled("age", "old", 3), {"continuous": ["age"]}, "holds 'old', expected numbers"),
    "infinite": (lambda: spoiled("age", np.inf, 3), {"continuous": ["age"]}, "holds inf, expected numbers"),
    "no value": (
        lambda: spoiled("age", np.nan, 3),
        {"continuous": ["age"]},
        "no value for 1 of 240.*'cell3'",
    ),
    "no category": (
        lambda: spoiled("sex", None, 3),
        {"categorical": ["sex"]},
        "no value for 1 of 240.*'cell3'",
    ),
    "constant": (lambda: spoiled("age", 0.1), {"continuous": ["age"]}, "is 0.1 for all training cells"),
    "one category": (lambda: spoiled("sex", "f"), {"categorical": ["sex"]}, "is 'f' for all training cells"),
    "numbers as names": (cells, {"categorical": ["age"]}, "240 categories for 240 .*continuous"),
    "twice": (cells, {"continuous": ["age"], "categorical": ["age"]}, "'age' is named 2 times"),
    "the batch": (cells, {"categorical": ["batch"]}, "'batch' is data.batch_key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_cannot_be_covariates_are_refused(case: str):
    make, covariates, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        fit(make(), **covariates)


def test_what_the_batch_explains_as_well_is_said(caplog: pytest.LogCaptureFixture):
    data = cells()
    data.obs["ward"] = data.obs["batch"].map({"one": 1.0, "two": 2.0})
    fit(data, continuous=["ward", "age"])
    assert [r.args[0] for r in caplog.records] == ["ward"]


def test_the_unknown_stands_for_the_average_and_is_said_once(caplog: pytest.LogCaptureFixture):
    data = cells()
    fitted = fit(data, continuous=["age"], categorical=["sex"])
    query = spoiled("sex", "x", 0)
    query.obs.loc["cell1", "age"] = np.nan
    query.obs.loc["cell2", "sex"] = None
    with caplog.at_level(logging.WARNING):
        values = fitted.encode(opened(query))
    known = fitted.encode(opened(data))
    assert not values[0, 1:].any()
    assert values[1, 0] == 0
    assert not values[2, 1:].any()
    np.testing.assert_array_equal(values[3:], known[3:])
    assert [str(r.message).split(";")[0] for r in caplog.records] == [
        "covariate 'age': 1 cells have no value",
        "covariate 'sex': 2 cells have none of its categories (x)",
    ]
    caplog.clear()
    del query.obs["age"], query.obs["sex"]
    assert not fitted.encode(opened(query)).any()
    assert len(caplog.records) == 2


def r_squared(z: np.ndarray, y: np.ndarray) -> float:
    """Share of the variance of ``y`` that is linear in ``z``."""
    z = np.column_stack([z, np.ones(len(z))])
    rest = y - z @ np.linalg.lstsq(z, y, rcond=None)[0]
    return float(1 - rest.var() / y.var())


def test_an_effect_is_explained_by_the_covariate_and_not_by_the_latent(tmp_path: Path):
    data = cells(600)
    age = data.obs["age"].to_numpy()
    without = run.train(raw(tmp_path / "without"), data=data)
    given = run.train(raw(tmp_path / "with", continuous=["age"]), data=data)
    z = {done.dir.path.parent.name: np.load(done.dir / "embeddings.npz")["mu"] for done in (without, given)}
    assert r_squared(z["without"], age) > 0.3
    assert r_squared(z["with"], age) < 0.1
    one_type = (data.obs["cell_type"] == "0").to_numpy(float)
    assert r_squared(z["with"], one_type) > 0.5
    model, batch = given.assembly.model.eval(), next(iter(given.assembly.loader(np.arange(64))))
    weights = model.decoder("rna").mean_head.weight[:, -1].abs()
    assert weights.argmax() == 0, "the gene's own coefficient"
    own = model.impute(batch, "rna")
    average = model.decoder("rna")(model.embed(batch).mu, batch.library["rna"], batch.groups["batch"]).mu
    old = batch.covariates[:, 0] > 1
    assert (own[old, 0] > 1.5 * average[old, 0]).all()


def test_saved_backed_and_new_cells(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    data = cells()
    path = tmp_path / "cells.h5ad"
    data.write_h5ad(path)
    config = overlay(
        raw(tmp_path, continuous=["age"], categorical=["sex"]),
        {"data": {"path": str(path), "backed": True}, "optim": {"epochs": 3}},
    )
    done = run.train(config)
    in_memory = assemble(overlay(config, {"data": {"backed": False}}))
    for one, other in zip(done.assembly.loader(np.arange(N)), in_memory.loader(np.arange(N)), strict=True):
        assert torch.equal(one.covariates, other.covariates)
        seeds = replace(one, seed=torch.arange(len(one)) < 5, n_seeds=5).scored
        assert torch.equal(seeds.covariates, one.covariates[:5])
        assert torch.equal(one.to("cpu").covariates, one.covariates)

    trained = Trained.load(done.dir.path)
    assert trained.covariates == done.assembly.covariates
    source = trained.source()
    z = np.load(done.dir / "embeddings.npz")["z_bio"]
    np.testing.assert_allclose(
        np.load(run.embed(done.dir.path, out=tmp_path / "e.npz"))["z_bio"], z, atol=1e-6
    )
    values = torch.cat([batch.covariates for batch in trained.loader(source)])
    assert torch.equal(values, torch.from_numpy(done.assembly.covariates.encode(source)))
    query = cells(30, seed=1)
    query.obs["sex"] = "unknown"
    del query.obs["age"]
    caplog.clear()
    batches = list(trained.loader(trained.source(query)))
    assert not torch.cat([batch.covariates for batch in batches]).any()
    assert len([r for r in caplog.records if "covariate" in r.message]) == 2
    assert trained.model.impute(batches[0], "rna").isfinite().all()


@pytest.mark.parametrize("settings", [{"model": {"latent_tech": 2}}, {"model": {"latent_tech": 0}}])
def test_a_run_with_covariates_is_resumed_to_the_bit(tmp_path: Path, settings: dict):
    data, config = cells(120), overlay(raw(tmp_path, continuous=["age"]), settings)
    config = overlay(config, {"optim": {"epochs": 3}})
    whole = run.train(config, data=data)
    part = overlay(config, {"logging": {"run_dir": str(tmp_path / "part")}})
    assembly = assemble(part, data=data)

    class Killed(BaseException):
        pass

    begin = assembly.objective.begin_epoch

    def dies(epoch: int, n_steps: int) -> None:
        begin(epoch, n_steps)
        if epoch == 2:
            raise Killed

    assembly.objective.begin_epoch = dies
    trainer = Trainer(
        assembly.objective, assembly.config.optim, run_dir=tmp_path / "part", metadata=assembly.metadata()
    )
    with pytest.raises(Killed):
        trainer.fit(assembly.training_loader(), assembly.loader(assembly.split.val))
    resumed = run.train(part, data=data, resume=tmp_path / "part")
    one, other = (load_checkpoint(done.dir / LAST)["model"] for done in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_checkpoint_from_before_there_were_covariates_loads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    data = cells(80)
    done = run.train(overlay(raw(tmp_path), {"optim": {"epochs": 1}}), data=data)
    parts = load_checkpoint(done.dir / LAST)
    metadata = {key: value for key, value in parts["metadata"].items() if key != "covariates"}
    del metadata["config"]["data"]["covariates"]
    kept = {key: value for key, value in parts.items() if key not in ("format", "version", "metadata")}
    save_checkpoint(tmp_path / "old.pt", **kept, metadata=metadata)
    z = [
        np.load(run.embed(path, data, out=tmp_path / f"{path.stem}.npz"))["mu"]
        for path in (done.dir / LAST, tmp_path / "old.pt")
    ]
    assert np.array_equal(*z)
    assert Trained.load(tmp_path / "old.pt").covariates.width == 0
    said = [record.getMessage() for record in caplog.records if "coordinates.npz" in record.getMessage()]
    assert said
    assert all("old.pt" in words for words in said), "alone, it lacks what stands beside that of the run"
