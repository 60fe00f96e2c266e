"""What a registered modality, metric or encoder input must be, and what is said where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from pydantic import PositiveInt

from remadom.config import plan
from remadom.config.components import (
    build_encoder,
    build_metrics,
    check_components,
    encoder_section,
    json_schema,
)
from remadom.config.known import check_known
from remadom.config.load import to_yaml, validate
from remadom.core.inputs import INPUTS, EncoderInput
from remadom.data.fit import fit_preprocess
from remadom.data.modality import MODALITIES, Modality, register_modality
from remadom.data.source import Source
from remadom.data.views import kind_of
from remadom.errors import InputError
from remadom.eval.metric import METRICS, Metric, measured
from remadom.eval.report.measures import measure


def entry(name: str = "histone", **more: Any) -> Modality:
    plain = {"title": "Histone", "aliases": ("h3k27ac",), "feature_types": (), "keys": ("obsm:X_histone",)}
    return Modality(name=name, **{**plain, "likelihood": "nb", "encoder_input": "log1p", **more})


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Modalities, inputs and metrics of a test are forgotten after it."""
    tables: list[dict] = [MODALITIES, INPUTS._components, METRICS._components]
    before = [dict(table) for table in tables]
    yield
    for table, was in zip(tables, before, strict=True):
        table.clear()
        table.update(was)
    for registry in (INPUTS, METRICS):
        registry.schema.cache_clear()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"name": "rna"}, "'rna' is already registered"),
        ({"name": "H3K27ac"}, "expected small letters"),
        ({"name": "a-b"}, "expected small letters"),
        ({"name": "marks_to_genes"}, "without '_to_'"),
        ({"name": "none"}, "not 'none'"),
        ({"name": "peaks"}, "the name 'peaks' belongs to 'atac'"),
        ({"aliases": ("protein",)}, "the name 'protein' belongs to 'adt'"),
        ({"comparable": "lognrom"}, "comparable is 'lognrom': did you mean 'lognorm'"),
    ],
)
def test_a_modality_that_cannot_be_is_refused(more: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        register_modality(entry(**more))
    assert "histone" not in MODALITIES


def test_what_a_modality_is_read_as_follows_from_its_entry():
    register_modality(entry())
    register_modality(entry("cytof", aliases=(), encoder_input="clr"))
    register_modality(entry("spatial", aliases=(), comparable="scores"))
    assert [kind_of(name) for name in ("histone", "cytof", "spatial", "atac")] == [
        "lognorm",
        "clr",
        "scores",
        "tfidf",
    ]


def test_preprocessing_of_a_registered_modality():
    with pytest.raises(InputError, match="unknown modality 'histone'"):
        validate({"data": {"preprocess": {"histone": {}}}})
    register_modality(entry())
    config = validate({"data": {"preprocess": {"histone": {"n_top": 7}}}})
    assert config.data.preprocess.of("histone").n_top == 7
    assert config.data.preprocess.of("adt").n_top is None
    assert "histone:" in to_yaml(config)
    assert validate(config.model_dump(mode="json")) == config
    with pytest.raises(InputError, match=r"data.preprocess: histone: unknown key 'hvg'.*min_cells, n_top"):
        validate({"data": {"preprocess": {"histone": {"hvg": 3}}}})
    with pytest.raises(InputError, match=r"histone.n_top: Input should be greater than 0 \(found 0\)$"):
        validate({"data": {"preprocess": {"histone": {"n_top": 0}}}})
    assert json_schema()["$defs"]["Preprocess"]["properties"]["histone"]["properties"].keys() == {
        "min_cells",
        "n_top",
    }


def test_features_of_any_modality_are_chosen_by_the_training_cells():
    shown = np.array([[1, 0, 2, 0], [3, 0, 0, 1], [1, 0, 1, 0], [0, 9, 0, 0]], dtype=np.float32)
    source = Source.open({"adt": AnnData(shown, var=pd.DataFrame(index=list("abcd")))})
    for section, kept, note in (
        ({}, "abcd", "adt: all 4 features"),
        ({"n_top": 2}, "ac", "adt: 2 of 4 features, each above 0 in at least 2 of 3 cells"),
        ({"min_cells": 1}, "acd", "adt: 3 of 4 features, each above 0 in at least 1 of 3 cells"),
    ):
        settings = validate({"data": {"preprocess": {"adt": section}}}).data
        prepared = fit_preprocess(source, settings, np.arange(3))
        assert prepared.features["adt"] == list(kept)
        assert prepared.notes == (note,)
    with pytest.raises(
        InputError, match="adt: no feature is above 0 in 4 of 3.*lower data.preprocess.adt.min_cells"
    ):
        fit_preprocess(
            source, validate({"data": {"preprocess": {"adt": {"min_cells": 4}}}}).data, np.arange(3)
        )


def test_the_plan_takes_fewer_of_many_features_whatever_the_modality():
    register_modality(entry(likelihood="bernoulli"))
    facts = plan.Facts(n_cells=3000, features={"histone": 200_000}, has={"histone": 3000}, shared=0)
    found = {choice.key: choice.value for choice in plan.choose(facts, {})}
    assert found["data.preprocess.histone.n_top"] == 50_000
    assert found["model.decoders.histone.lowrank"] == 32
    given = plan.choose(facts, {"data": {"preprocess": {"histone": {"n_top": 9}}}})
    assert not [choice for choice in given if choice.key.endswith("n_top")]


class Times(EncoderInput):
    """So many times the values.

    Parameters
    ----------
    factor
        How many.
    """

    def __init__(self, n_features: int, *, factor: PositiveInt = 2) -> None:
        super().__init__(n_features)
        self.factor = factor

    def forward(self, rows):
        return rows.map(lambda x: self.factor * x)


def test_an_encoder_input_has_parameters():
    INPUTS.register("times")(Times)
    assert encoder_section("rna", {"input": "times"})["input"] == "times"
    section = encoder_section("rna", {"input": {"name": "times", "factor": 3}})
    assert build_encoder({**section, "in_dim": 4}, 3).transform.factor == 3
    assert build_encoder({**section, "in_dim": 4, "input": "times"}, 3).transform.factor == 2
    for value, words in (
        (
            {"name": "times", "factro": 3},
            "model.encoders.rna.input: unknown key 'factro': did you mean 'factor'",
        ),
        ({"name": "tiems"}, "unknown 'tiems': did you mean 'times'"),
        ({"factor": 3}, "unknown 'None'"),
        ({"name": "log1p", "factor": 3}, "unknown key 'factor'"),
    ):
        with pytest.raises(InputError, match=words):
            encoder_section("rna", {"input": value})


class Spread(Metric):
    """Mean square of
    the embedding. Nothing else.

    Parameters
    ----------
    power
        Of the distance.
    """

    better = ""

    def __init__(self, *, power: PositiveInt = 2) -> None:
        self.power = power

    def measure(self, z_bio, labels):
        every = {"all": np.float32((np.abs(z_bio) ** self.power).mean()), "none": None, "nan": np.nan}
        return every if labels is None else len(set(labels))


def test_metrics_are_named_in_the_configuration_and_give_numbers():
    METRICS.register("spread")(Spread)
    config = validate({"evaluation": {"metrics": {"spread": {"power": 1}}}})
    check_components(config)
    metrics = build_metrics(config.evaluation)
    z = np.full((4, 2), -3.0)
    assert metrics["spread"].inputs() == ("z_bio", "labels")
    assert measured(metrics, {"z_bio": z, "labels": None, "obs": pd.DataFrame()}) == {"spread.all": 3.0}
    assert measured(metrics, {"z_bio": z, "labels": ["a", "b"]}) == {"spread": 2.0}
    assert (
        build_metrics(validate({"evaluation": {"metrics": {"spread": None}}}).evaluation)["spread"].power == 2
    )
    assert measure("spread.all") == ("spread.all", "mean square of the embedding", "")
    for params, words in (
        ({"spraed": {}}, "evaluation.metrics: unknown metric 'spraed': did you mean 'spread'"),
        ({"spread": {"pwoer": 1}}, "evaluation.metrics.spread: unknown key 'pwoer': did you mean 'power'"),
        ({"spread": {"power": 0}}, "evaluation.metrics.spread.power: Input should be greater than 0"),
    ):
        with pytest.raises(InputError, match=words):
            check_components(validate({"evaluation": {"metrics": params}}))


def test_a_metric_without_a_number_is_told():
    class Told(Spread):
        """Words."""

        def measure(self):
            return {"a": torch.ones(2)}

    with pytest.raises(InputError, match=r"metric 'told' gave tensor\(\[1., 1.\]\) \(Tensor\)"):
        measured({"told": Told()}, {})


def test_what_a_checkpoint_needs_is_named():
    saved: dict[str, Any] = {
        "model": {
            "encoders": {"rna": {"input": "lognorm"}, "histone": {"input": {"name": "power"}}, "atac": None},
            "decoders": {"rna": {"likelihood": "zinb"}, "histone": {"likelihood": "geometric"}},
        },
        "alignment": {"mine": {"kind": None}, "also": {"kind": "mmd"}},
        "bridge": {"provider": "ours"},
        "evaluation": {"metrics": {"leak": {}}},
    }
    with pytest.raises(
        InputError, match="^x.pt needs modality 'histone', encoder input 'power', likelihood 'geometric', w"
    ):
        check_known(saved, "x.pt")
    with pytest.raises(
        InputError, match="alignment head 'mine', bridge provider 'ours', metric 'leak', which"
    ):
        check_known(saved, "x.pt", training=True)
    check_known({"model": {"encoders": {"rna": {"input": None}}}}, "x.pt", training=True)
    check_known({"model": 3, "alignment": None, "evaluation": {"metrics": 4}}, "x.pt", training=True)
