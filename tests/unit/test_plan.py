"""The settings that depend on the data: what is chosen, and what the user's own settings change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from remadom.config.load import overlay, validate
from remadom.config.plan import COMPONENTS, FEW_CELLS, FEW_COUNTS, RULES, Facts, apply, choose
from remadom.config.terms import Ties
from remadom.data.diagnosis import diagnose
from remadom.data.mock import generate, to_anndata
from remadom.data.source import Source
from remadom.errors import InputError

CITE = Facts(
    n_cells=10_000,
    features={"rna": 30_000, "adt": 100},
    has={"rna": 10_000, "adt": 6000},
    shared=6000,
    batches=3,
)
PANEL = replace(CITE, features={"rna": 500, "adt": 224})
UNLINKED = Facts(
    n_cells=800,
    features={"rna": 2000, "adt": 100},
    has={"rna": 400, "adt": 400},
    shared=0,
    linked=False,
    common_names=60,
)
ATAC = Facts(n_cells=2000, features={"atac": 120_000}, has={"atac": 2000}, shared=0)


def chosen(facts: Facts, given: dict | None = None) -> dict:
    return {choice.key: choice.value for choice in choose(facts, given or {})}


def test_every_rule_speaks_for_some_data_and_gives_a_reason():
    fragments = {"model": {"decoders": {"atac": {"likelihood": "poisson"}}}}
    choices = [
        *choose(CITE, {}),
        *choose(PANEL, {}),
        *choose(ATAC, {}),
        *choose(UNLINKED, {}),
        *choose(ATAC, fragments),
    ]
    assert all(choice.reason for choice in choices)
    assert {choice.key for choice in choices} == {
        "optim.batch_size",
        "optim.epochs",
        "optim.scheduler",
        "optim.early_stopping",
        "model.beta",
        "model.modality_dropout",
        "model.coordinates",
        "model.decoders.atac.lowrank",
        "model.decoders.rna.inflation",
        "model.encoders.rna.components",
        "data.preprocess.rna.hvg",
        "data.preprocess.atac.n_top",
        "data.preprocess.atac.binarize",
        "model.decoders.adt.likelihood",
        "model.decoders.adt.library",
        "alignment",
        "bridge.provider",
    }
    assert len(RULES) == 15


def test_a_large_panel_has_no_mixture_unless_one_is_asked_for():
    keys = {"model.decoders.adt.likelihood", "model.decoders.adt.library"}
    plan = chosen(PANEL)
    assert (plan["model.decoders.adt.likelihood"], plan["model.decoders.adt.library"]) == ("nb", False)
    validate(apply(choose(PANEL, {}), {}))
    assert keys <= {*chosen(PANEL, {"model": {"decoders": {"adt": {"hidden": 64}}}})}
    for given in ({"likelihood": "poisson_mixture"}, {"likelihood": "nb"}, None):
        assert not keys & {*chosen(PANEL, {"model": {"decoders": {"adt": given}}})}
    assert not keys & {*chosen(CITE)}


def test_the_encoder_of_few_cells_with_genes_starts_from_components():
    key = "model.encoders.rna.components"
    few = replace(CITE, has={"rna": FEW_CELLS - 1, "adt": 9000})
    assert chosen(few)[key] == COMPONENTS
    assert key not in chosen(replace(few, has={"rna": FEW_CELLS, "adt": 9000})), "cells with genes count"
    assert key not in chosen(ATAC)
    assert chosen(replace(few, has={"rna": 170}))[key] == 8, "20 cells for each"
    assert key not in chosen(replace(few, has={"rna": 19}))
    assert chosen(few, {"model": {"encoders": {"rna": {"hidden": 64}}}})[key] == COMPONENTS
    for given in ({"components": 0}, None):
        assert key not in chosen(few, {"model": {"encoders": {"rna": given}}})
    assert validate(apply(choose(few, {}), {})).model.encoders["rna"] == {"components": COMPONENTS}


def test_the_encoder_of_few_counts_starts_from_components_too():
    key, n, genes = "model.encoders.rna.components", 10_000, 2000
    enough = FEW_COUNTS * genes / n
    data = replace(CITE, features={"rna": genes, "adt": 100}, depth={"rna": enough, "adt": 10.0})
    shallow = replace(data, depth={"rna": enough - 1, "adt": 10.0})
    assert key not in chosen(data)
    assert chosen(shallow)[key] == COMPONENTS
    reasons = [choice.reason for choice in choose(shallow, {}) if choice.key == key]
    assert "1,595 counts of a gene" in reasons[0]
    assert "cells:" not in reasons[0]
    assert key not in chosen(CITE), "a depth that is not known"
    many = {"features": {"rna": 30_000, "adt": 100}}
    assert key in chosen(replace(data, **many)), "of the 4,000 genes that are selected"
    assert key not in chosen(replace(data, depth={"rna": 2 * enough, "adt": 10.0}, **many))
    few = {"data": {"preprocess": {"rna": {"hvg": 500}}}}
    assert key not in chosen(shallow, few), "the genes that are selected have more"


def test_peaks_without_proteins_stay_in_the_latent():
    multiome = replace(CITE, features={"rna": 30_000, "atac": 120_000}, has={"rna": 10_000, "atac": 10_000})
    trimodal = replace(
        multiome, features=multiome.features | {"adt": 100}, has=multiome.has | {"adt": 10_000}
    )
    assert chosen(multiome)["model.coordinates"] == chosen(ATAC)["model.coordinates"] == "latent"
    for facts in (CITE, trimodal, replace(CITE, features={"rna": 30_000}, has={"rna": 10_000})):
        assert "model.coordinates" not in chosen(facts)
    assert "model.coordinates" not in chosen(multiome, {"model": {"decoders": {"atac": None}}})
    assert chosen(trimodal, {"model": {"decoders": {"adt": None}}})["model.coordinates"] == "latent"


def test_genes_need_not_agree_with_peaks_alone():
    multiome = replace(CITE, features={"rna": 2000, "atac": 2000}, has={"rna": 10_000, "atac": 6000})
    trimodal = replace(multiome, features={**multiome.features, "adt": 30}, has={**multiome.has, "adt": 6000})
    assert set(chosen(multiome)["alignment"]) == {"mmd"}
    for facts in (CITE, trimodal):
        assert set(chosen(facts)["alignment"]) == {"mmd", "posterior"}


def test_what_is_given_is_kept_and_the_rest_follows_it():
    given = {"optim": {"epochs": 30, "lr": 1e-6}}
    plan = chosen(CITE, given)
    assert "optim.epochs" not in plan
    assert plan["model.beta"]["epochs"] == 6.0
    assert plan["optim.early_stopping"]["patience"] == 6
    assert plan["optim.scheduler"]["min_lr"] < 1e-6
    config = validate(apply(choose(CITE, given), given))
    assert (config.optim.epochs, config.optim.lr, config.data.preprocess.rna.hvg) == (30, 1e-6, 4000)


@pytest.mark.parametrize(
    ("facts", "given", "key"),
    [
        (CITE, {"optim": {"scheduler": {"name": "step"}}}, "optim.scheduler"),
        (CITE, {"optim": {"early_stopping": {"enabled": False}}}, "optim.early_stopping"),
        (CITE, {"data": {"val_fraction": 0.0}}, "optim.early_stopping"),
        (CITE, {"model": {"beta": 1.0}}, "model.beta"),
        (CITE, {"alignment": {}}, "alignment"),
        (CITE, {"alignment": {"ot": {"enabled": True}}}, "alignment"),
        (CITE, {"model": {"encoders": {"rna": {"in_dim": 30_000}}}}, "data.preprocess.rna.hvg"),
        (ATAC, {"model": {"decoders": {"atac": {"out_dim": 120_000}}}}, "data.preprocess.atac.n_top"),
        (ATAC, {"model": {"decoders": {"atac": {"likelihood": "zinb"}}}}, "model.decoders.atac.lowrank"),
        (CITE, {"model": {"decoders": {"rna": None}}}, "model.decoders.rna.inflation"),
        (CITE, {"model": {"decoders": {"rna": {"likelihood": "nb"}}}}, "model.decoders.rna.inflation"),
        (CITE, {"model": {"decoders": {"rna": {"inflation": "cell"}}}}, "model.decoders.rna.inflation"),
        (ATAC, {"model": {"decoders": {"atac": None}}}, "model.decoders.atac.lowrank"),
        (ATAC, {"model": {"decoders": {"atac": {"lowrank": None}}}}, "model.decoders.atac.lowrank"),
        (ATAC, {"model": {"coordinates": "decoded"}}, "model.coordinates"),
    ],
)
def test_a_choice_yields_to_what_the_user_said(facts: Facts, given: dict, key: str):
    assert key in chosen(facts)
    assert not any(f"{found}.".startswith(f"{key}.") for found in chosen(facts, given))


def test_a_section_that_tunes_a_choice_keeps_the_rest_of_it():
    """A weight that is changed from the command line does not switch its head off, and the others with it."""
    ramp = {"schedule": "linear", "start": 0.0, "end": 1.0, "epochs": 5}
    for weight in (2.0, ramp):
        given = {"alignment": {"mmd": {"params": {"weight": weight}}}}
        heads = validate(apply(choose(CITE, given), given)).alignment
        assert {name for name, head in heads.items() if head.enabled} == {"mmd", "posterior"}
        assert heads["mmd"].params == {"weight": weight, "group_key": "batch"}
        assert (
            heads["posterior"].params == validate(apply(choose(CITE, {}), {})).alignment["posterior"].params
        )
    given = {"optim": {"early_stopping": {"patience": 7}, "scheduler": {"min_lr": 0.0}}}
    optim = validate(apply(choose(CITE, given), given)).optim
    assert (optim.early_stopping.enabled, optim.early_stopping.patience) == (True, 7)
    assert (optim.scheduler.name, optim.scheduler.min_lr) == ("cosine", 0.0)
    given = {"model": {"beta": {"end": 0.5}}}
    assert chosen(CITE, given)["model.beta.epochs"] == chosen(CITE)["model.beta"]["epochs"]


def test_a_head_that_is_configured_is_on_or_off():
    config = validate({"alignment": {"ot": {"params": {"weight": 0.2}}}})
    with pytest.raises(
        InputError, match=r"alignment\.ot is configured and neither on nor off; .*enabled=true"
    ):
        Ties.of(config)
    assert not Ties.of(validate({"alignment": {"ot": {"enabled": False, "params": {"weight": 0.2}}}})).heads


def test_a_resolved_configuration_leaves_nothing_to_choose():
    resolved = validate(apply(choose(CITE, {}), {})).model_dump(mode="json")
    assert choose(CITE, overlay(resolved, {"model": {"decoders": {}}})) == []


@pytest.mark.parametrize(("n_cells", "size"), [(10, 128), (1600, 128), (10_000, 256), (10**6, 512)])
def test_batches_grow_with_the_data(n_cells: int, size: int):
    facts = Facts(n_cells=n_cells, features={"rna": 100}, has={"rna": n_cells}, shared=0)
    assert chosen(facts)["optim.batch_size"] == size
    assert 10 <= chosen(facts)["optim.epochs"] <= 200


def test_two_modalities_that_no_cell_links_are_linked_by_names_if_they_have_any():
    assert chosen(UNLINKED)["bridge.provider"] == "linked_features"
    for facts in (CITE, replace(UNLINKED, common_names=2), replace(UNLINKED, linked=True)):
        assert "bridge.provider" not in chosen(facts)
    assert "bridge.provider" not in chosen(UNLINKED, {"bridge": {"provider": "gw"}})


def test_facts_come_from_the_cells():
    mock = generate("unpaired", cells=96, genes=30, proteins=6, modalities=["rna", "adt"])
    data = to_anndata(mock)
    data.uns["X_adt_names"] = np.array([*data.var_names[:5], "other"], dtype=object)
    source = Source.open(data)
    keys = {"batch_key": "batch", "dataset_key": "dataset", "label_key": "cell_type"}
    facts = Facts.of(source, diagnose(source, **keys))
    assert (facts.linked, facts.common_names, facts.batches) == (False, 5, 2)
    nested = Source.open(to_anndata(generate("hierarchical", cells=200, genes=30, peaks=30, proteins=6)))
    facts = Facts.of(nested, diagnose(nested, **keys))
    assert (facts.linked, facts.batches) == (True, 6)
