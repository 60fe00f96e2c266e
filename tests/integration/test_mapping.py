"""New cells on a trained reference, from the file to labels, imputed values and report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from remadom import imputing, run, sharing
from remadom.adapters.labels import UNKNOWN
from remadom.adapters.settings import AdapterSettings
from remadom.cli.app import app
from remadom.config.load import overlay
from remadom.config.reference import Reference, cells_of
from remadom.data.mock import generate, to_mudata
from remadom.errors import InputError
from remadom.mapping import Mapped, map_reference
from remadom.results.mapped import guarded
from remadom.train.coordinates import in_coordinates

N, GENES = 420, 100
Parts = dict[str, ad.AnnData]


class World(NamedTuple):
    """A reference of RNA and proteins, and other cells of the same types."""

    folder: Path
    reference: Reference
    query: Parts
    truth: pd.Series


def measured(seed: int) -> tuple[Parts, Parts]:
    """Two batches to train on, and a third one, of which everything was measured."""
    data = to_mudata(
        generate("paired", cells=N, genes=GENES, peaks=80, proteins=12, difficulty=0.1, seed=seed)
    )
    new = np.random.default_rng(0).permutation(N)[:120]
    rest = np.setdiff1d(np.arange(N), new)
    parts = {m: part.copy() for m, part in data.mod.items()}
    for part in parts.values():
        assert (part.obs_names == parts["rna"].obs_names).all()
        part.obs["half"] = np.where(part.obs["cell_type"].astype(str).str[0] < "C", "first", "second")
    ours = {m: parts[m][rest].copy() for m in ("rna", "adt")}
    query = {m: part[new].copy() for m, part in parts.items()}
    for part in query.values():
        part.obs["batch"] = "donor_9"
    return ours, query


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """A reference that was trained and saved, and the query in a file."""
    folder = tmp_path_factory.mktemp("mapping")
    ours, query = measured(seed=1)
    raw = {
        "data": {"path": str(folder / "ours.h5ad"), "batch_key": "batch"},
        "model": {"latent_bio": 8},
        "optim": {"epochs": 40, "batch_size": 40, "lr": 0.005},
        "evaluation": {"label_key": "cell_type", "figures": False, "layout": "pca", "max_cells": 200},
        "logging": {"run_dir": str(folder / "run")},
    }
    single(ours).write_h5ad(folder / "ours.h5ad")
    run.train(raw)
    sharing.save(folder / "run", folder / "model", labels=["cell_type", "half"])
    single(query, "rna").write_h5ad(folder / "query.h5ad")
    truth = query["rna"].obs["cell_type"].astype(str)
    return World(folder, Reference.load(folder / "model"), query, truth)


def single(parts: Parts, *only: str) -> ad.AnnData:
    """One AnnData: RNA in X, the others in obsm."""
    whole = parts["rna"].copy()
    for m in only or parts:
        if m != "rna":
            whole.obsm[f"X_{m}"] = parts[m].X.copy()
            whole.uns[f"X_{m}_names"] = parts[m].var_names.to_numpy(dtype=object)
    return whole


def rna_of(world: World) -> Parts:
    return {"rna": world.query["rna"].copy()}


def mapped(world: World, query: Any = None, *, data: dict | None = None, **adapter: Any) -> Mapped:
    config = {"adapter": {"epochs": 2, **adapter}, **({} if data is None else {"data": data})}
    return map_reference(world.reference, rna_of(world) if query is None else query, config=config)


def command(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def accuracy(found: Mapped, truth: pd.Series, level: str = "cell_type") -> float:
    return float((found.labels[level].nearest == truth[found.source.obs_names].to_numpy()).mean())


def notes(found: Mapped) -> str:
    return "\n".join(found.metrics["notes"])


@pytest.fixture(scope="module")
def plain(world: World) -> Mapped:
    """RNA alone, embedded by the frozen model."""
    return mapped(world, method="none")


# --- the three methods


def test_rna_alone_is_labeled_better_than_by_chance(world: World, plain: Mapped):
    assert plain.latent.mu.shape == (120, 8)
    assert accuracy(plain, world.truth) > 0.55
    assert accuracy(plain, world.query["rna"].obs["half"], "half") > 0.85
    scores = plain.metrics["labels"]["cell_type"]
    assert scores["accuracy"] == pytest.approx(accuracy(plain, world.truth))
    assert scores["labeled"] == 120
    assert plain.metrics["query"]["new_batches"] == ["donor_9"]
    assert plain.metrics["reference"]["cells"] == 300
    assert set(plain.metrics["labels"]) == {"cell_type", "half"}


def test_none_is_what_embed_gives_for_a_batch_that_the_model_does_not_know(
    world: World, plain: Mapped, tmp_path: Path
):
    embedded = np.load(run.embed(world.folder / "model", world.folder / "query.h5ad", out=tmp_path / "e.npz"))
    order = pd.Index(embedded["obs_names"]).get_indexer(plain.source.obs_names)
    np.testing.assert_allclose(embedded["z_bio"][order], plain.latent.z_bio.numpy(), atol=1e-5)


@pytest.mark.parametrize("method", ["mixtures", "arches"])
def test_a_method_leaves_the_reference_where_it_is(world: World, plain: Mapped, method: str):
    before = {name: value.clone() for name, value in world.reference.trained.model.state_dict().items()}
    found = mapped(world, method=method)
    after = world.reference.trained.model.state_dict()
    assert list(before) == list(after), "the loaded reference is copied, not changed"
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    now = {name.replace(".linear.", "."): value for name, value in found.trained.model.state_dict().items()}
    assert all(torch.equal(value, now[name]) for name, value in before.items()), "and frozen in the copy"
    assert not np.allclose(found.latent.mu.numpy(), plain.latent.mu.numpy(), atol=1e-3)
    assert accuracy(found, world.truth) > accuracy(plain, world.truth) - 0.1
    assert any(".residual." in name for name in now) == (method == "arches")
    joint = found.trained.groups["batch"]
    assert joint == (*world.reference.trained.groups["batch"], "donor_9")


def test_a_shifted_batch_comes_back(world: World):
    """Genes of the new batch are seen more and less well: correction brings cells nearer to their own types."""
    query = rna_of(world)
    bias = np.exp(np.random.default_rng(0).normal(0, 0.9, GENES))
    counts = np.asarray(query["rna"].X.todense()) * bias
    query["rna"].X = np.random.default_rng(1).poisson(counts).astype(np.float32)
    cells, model = world.reference.cells, world.reference.trained.model
    seen, labels = cells.seen_by(model, ("rna",)), cells.labels["cell_type"]
    centers = {name: seen[labels == name].mean(0) for name in set(labels)}

    def distance(found: Mapped) -> float:
        names = world.truth[found.source.obs_names]
        apart = [
            np.linalg.norm(z - centers[name]) for z, name in zip(found.latent.mu.numpy(), names, strict=True)
        ]
        return float(np.mean(apart))

    shifted, *others = (mapped(world, query, method=m, epochs=10) for m in ("none", "mixtures", "arches"))
    assert max(map(distance, others)) < distance(shifted)
    assert (
        max(found.metrics["quality"]["unlike_the_reference"] for found in others)
        <= (shifted.metrics["quality"]["unlike_the_reference"])
    )


def test_the_same_seed_gives_the_same(world: World):
    first, second = (mapped(world, method="arches") for _ in range(2))
    np.testing.assert_allclose(first.latent.mu.numpy(), second.latent.mu.numpy(), atol=1e-5)
    assert (first.labels["cell_type"].label == second.labels["cell_type"].label).all()


# --- features


def test_other_spellings_and_other_orders_of_genes_change_nothing(world: World, plain: Mapped):
    query = rna_of(world)
    query["rna"] = query["rna"][:, ::-1].copy()
    query["rna"].var_names = [name.upper().replace("_", ".") for name in query["rna"].var_names]
    found = mapped(world, query, method="none")
    np.testing.assert_allclose(found.latent.mu.numpy(), plain.latent.mu.numpy(), atol=1e-5)
    assert "rna: 100 features have another spelling (" in notes(found)
    assert found.metrics["features"]["rna"]["by_punctuation"] == GENES


def test_genes_renamed_by_a_table(world: World, plain: Mapped, tmp_path: Path):
    names = list(world.query["rna"].var_names)
    query = rna_of(world)
    query["rna"].var_names = [f"alias{i}x" for i in range(GENES)]
    with pytest.raises(
        InputError, match=r"rna: 0 of the reference's 100 features found .* missing for example"
    ):
        mapped(world, query)
    for modality in ("", "rna"):
        rows = [f"alias{i}x,{name},{modality}" for i, name in enumerate(names)]
        table = tmp_path / "table.csv"
        table.write_text("\n".join(["query,reference,modality", *rows]))
        found = mapped(world, query, method="none", feature_table=str(table))
        np.testing.assert_allclose(found.latent.mu.numpy(), plain.latent.mu.numpy(), atol=1e-5)
        assert found.metrics["features"]["rna"]["by_table"] == GENES
    table.write_text(f"query,reference,modality\nalias0x,{names[0]}x,rna\n")
    with pytest.raises(InputError, match=rf"the table says that 'alias0x' is '{names[0]}x': did you mean"):
        mapped(world, query, feature_table=str(table))


def test_a_gene_that_occurs_twice_is_added_up_and_extra_ones_are_ignored(world: World, plain: Mapped):
    whole = world.query["rna"]
    half = np.random.default_rng(0).binomial(np.asarray(whole.X.todense()).astype(int), 0.5)[:, :5]
    counts = np.hstack([np.asarray(whole.X.todense()), half, np.full((120, 3), 50.0)]).astype(np.float32)
    counts[:, :5] -= half
    names = [*whole.var_names, *whole.var_names[:5], "other1", "other2", "other3"]
    query = {"rna": ad.AnnData(counts, obs=whole.obs.copy())}
    query["rna"].var_names = names
    found = mapped(world, query, method="none")
    np.testing.assert_allclose(found.latent.mu.numpy(), plain.latent.mu.numpy(), atol=1e-5)
    assert "rna: 5 features are found more than once, and their counts are added (" in notes(found)
    assert "rna: 3 features of the query are not in the reference and are ignored" in notes(found)


def test_a_query_without_60_percent_of_the_genes(world: World, plain: Mapped, tmp_path: Path):
    """Left out, they move cells less than zeros in their place do; and too few are refused."""
    for draw in range(3):
        present = np.random.default_rng(draw).random(GENES) < 0.4
        query = {"rna": world.query["rna"][:, present].copy()}
        zeros = rna_of(world)
        zeros["rna"].X = (np.asarray(zeros["rna"].X.todense()) * present).astype(np.float32)
        left, as_zeros = (mapped(world, q, method="none", min_overlap=0.2) for q in (query, zeros))
        shift = [(found.latent.mu - plain.latent.mu).mean(0).norm() for found in (left, as_zeros)]
        assert shift[0] < 0.7 * shift[1]
    with pytest.raises(InputError, match=r"found .* expected 50%; missing for example .*--force"):
        mapped(world, query)
    forced = map_reference(
        world.reference, query, tmp_path / "o", config={"adapter": {"method": "none"}}, force=True
    )
    assert f"rna: {(~present).sum()} features are left out of the encoder and of the likelihood" in notes(
        forced
    )
    told = forced.metrics["features"]["rna"]
    assert told["found"] == present.sum()
    assert 0 < told["share_of_counts"] < 1
    table = pd.read_csv(tmp_path / "o" / "features.csv")
    assert (table["how"] == "missing").sum() == (~present).sum()
    assert (
        forced.trained.model.decoder("rna").scored.tolist()
        == np.flatnonzero(np.isin(forced.trained.prepared.features["rna"], query["rna"].var_names)).tolist()
    )


# --- batches


def test_cells_without_a_batch_column_are_one_new_batch(world: World):
    query = rna_of(world)
    del query["rna"].obs["batch"]
    found = mapped(world, query)
    assert "obs has no column 'batch': all cells are of the batch 'query'" in notes(found)
    assert found.metrics["query"]["new_batches"] == ["query"]


def test_a_batch_of_the_reference_s_name_is_said_aloud(world: World, plain: Mapped):
    query = rna_of(world)
    query["rna"].obs["batch"] = "batch_1"
    found = mapped(world, query, method="mixtures")
    assert "1 batches have the names of batches of the reference (batch_1) and are taken for them" in notes(
        found
    )
    assert found.metrics["query"]["new_batches"] == []
    np.testing.assert_allclose(
        found.latent.mu.numpy(), plain.latent.mu.numpy(), atol=1e-5, err_msg="not corrected"
    )


def test_another_batch_column_and_several_batches(world: World):
    query = rna_of(world)
    query["rna"].obs["donor"] = np.where(np.arange(120) % 2, "p", "q")
    found = mapped(world, query, data={"batch_key": "donor"}, method="arches")
    assert found.metrics["query"]["new_batches"] == ["p", "q"]
    assert found.trained.model.encoder("rna").residual.offset.shape[0] == 2
    assert (found.trained.model.encoder("rna").residual.offset.abs().sum(1) > 0).all()


# --- modalities


def test_all_of_the_reference_s_modalities(world: World, plain: Mapped):
    both = mapped(world, {m: world.query[m].copy() for m in ("rna", "adt")}, method="none")
    assert accuracy(both, world.truth) > accuracy(plain, world.truth) - 0.02
    assert both.metrics["query"]["modalities"] == {"rna": 120, "adt": 120}


def test_a_reference_keeps_profiles_of_what_all_its_cells_have_or_can_be_regressed_from(world: World):
    trained, kept = world.reference.trained, world.reference.cells
    run_cells = Reference.load(world.folder / "run").cells
    assert set(kept.axes) == set(kept.profiles) == {"rna", "adt"}
    for m, profiles in kept.profiles.items():
        np.testing.assert_array_equal(profiles, run_cells.profiles[m])
        assert profiles[:, 0].std() == pytest.approx(1, rel=0.01)
    ours = measured(seed=1)[0]
    lacking = {"rna": ours["rna"].copy(), "adt": ours["adt"][:200].copy()}
    some = cells_of(trained, None, lacking)
    assert set(some.axes) == {"rna", "adt"}
    assert np.isfinite(some.profiles["adt"]).all()
    apart = {"rna": ours["rna"][:150].copy(), "adt": ours["adt"][150:].copy()}
    assert cells_of(trained, None, apart).axes == {}, "no cell has both"


def test_neighbors_in_profiles_label_no_worse_than_those_in_the_latent_alone(world: World):
    bare, right, same = replace(world.reference.cells, axes={}, profiles={}), [], []
    for modalities in (("rna",), ("rna", "adt")):
        query = {m: world.query[m].copy() for m in modalities}
        config = {"adapter": {"method": "none"}}
        found, alone = (
            map_reference(replace(world.reference, cells=cells), query, config=config)
            for cells in (world.reference.cells, bare)
        )
        right.append(accuracy(found, world.truth) - accuracy(alone, world.truth))
        same.append((found.labels["cell_type"].nearest == alone.labels["cell_type"].nearest).mean())
        np.testing.assert_array_equal(found.latent.mu.numpy(), alone.latent.mu.numpy())
    print(f"with profiles {right[0]:+.3f}, {right[1]:+.3f} right; {same} the same")
    assert sum(right) > -0.02
    assert max(same) < 1


def test_proteins_alone_and_cells_of_different_modalities(world: World):
    query = {"rna": world.query["rna"][:70].copy(), "adt": world.query["adt"][50:].copy()}
    found = mapped(world, query, method="none")
    assert found.source.n_cells == 120
    only = ~found.source.has["rna"]
    assert only.sum() == 50
    truth = world.truth[found.source.obs_names].to_numpy()
    right = found.labels["cell_type"].nearest == truth
    chance = pd.Series(truth).value_counts(normalize=True).max()
    assert right[only].mean() > chance
    alone = mapped(world, {"adt": world.query["adt"][70:].copy()}, method="none")
    at = found.source.obs_names.get_indexer(alone.source.obs_names)
    np.testing.assert_allclose(alone.latent.mu.numpy(), found.latent.mu.numpy()[at], atol=1e-5)
    assert (alone.labels["cell_type"].nearest == found.labels["cell_type"].nearest[at]).all()


def test_a_new_modality_is_linked_by_the_cells_that_have_both(world: World, plain: Mapped):
    """Half of the cells have peaks only; the others say where peaks lie."""
    query = {"rna": world.query["rna"][:70].copy(), "atac": world.query["atac"].copy()}
    found = mapped(world, query, method="mixtures", epochs=30, lr=0.01)
    assert found.metrics["query"]["new_modalities"] == ["atac"]
    assert "atac: the reference never saw it; an encoder and a decoder are trained on 120 cells" in notes(
        found
    )
    assert {"rna", "adt", "atac"} == set(found.trained.model.decoders)
    peaks = ~found.source.has["rna"]
    right = found.labels["half"].nearest == world.query["rna"].obs["half"][found.source.obs_names].to_numpy()
    assert right[peaks].mean() > 0.6
    frozen = world.reference.trained.model.state_dict()
    now = found.trained.model.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    cells = world.reference.cells
    both = mapped(world, {m: world.query[m].copy() for m in ("rna", "atac")}, method="arches", epochs=2)
    assert set(cells.experts) == {"rna", "adt"}
    assert both.trained.model.encoder("atac").residual is not None


@pytest.mark.parametrize("linking", [0, 1])
def test_a_new_modality_that_nothing_links_is_refused(world: World, linking: int):
    query = {"rna": world.query["rna"][: 60 + linking].copy(), "atac": world.query["atac"][60:].copy()}
    with pytest.raises(
        InputError, match=rf"atac: the reference never saw it, and {linking} cells .* data.modalities"
    ):
        mapped(world, query)
    found = mapped(world, query, data={"modalities": ["rna"]})
    assert found.source.n_cells == 60 + linking


def test_no_modality_in_common(world: World):
    with pytest.raises(
        InputError, match="the query has atac, the reference rna, adt: with no modality in common"
    ):
        mapped(world, {"atac": world.query["atac"].copy()})


# --- labels


def test_a_type_that_was_taken_out_of_the_reference_is_unknown_more_often(world: World, tmp_path: Path):
    """How many are called unknown turns on few reference cells, so that is asked of two references together."""
    raw = yaml.safe_load((world.folder / "run" / "config.resolved.yaml").read_text())
    called: dict[str, list[tuple[float, float]]] = {"none": [], "mixtures": []}
    for seed in (1, 2):
        ours, query = measured(seed)
        data, run_dir = single(ours), tmp_path / f"run_{seed}"
        kept = ~data.obs["cell_type"].astype(str).str.startswith("A").to_numpy()
        path = tmp_path / f"some_{seed}.h5ad"
        data[kept].copy().write_h5ad(path)
        run.train(overlay(raw, {"data": {"path": str(path)}, "logging": {"run_dir": str(run_dir)}}))
        for method, auroc in (("none", 0.9), ("mixtures", 0.7)):
            both = {m: query[m].copy() for m in ("rna", "adt")}
            found = map_reference(run_dir, both, config={"adapter": {"method": method}})
            scores = found.metrics["labels"]["cell_type"]
            assert {name[0] for name in scores["novel_types"]} == {"A"}
            called[method].append((scores["novel_called_unknown"], scores["called_unknown"]))
            assert scores["novel_auroc"] > auroc
            assert scores["called_unknown"] < 0.1
    for shares in called.values():
        novel, others = np.mean(shares, axis=0)
        assert novel > others


def test_levels_are_chosen_and_unknown_ones_are_told(world: World):
    assert set(mapped(world, labels=["half"]).labels) == {"half"}
    assert mapped(world, labels=[]).labels == {}
    with pytest.raises(InputError, match="labels 'hal': did you mean 'half'"):
        mapped(world, labels=["hal"])


def test_a_query_without_labels_is_not_scored(world: World):
    query = rna_of(world)
    query["rna"].obs = query["rna"].obs[["batch"]]
    scores = mapped(world, query).metrics["labels"]["cell_type"]
    assert set(scores) == {"cells", "confidence", "second_opinion_agrees"}
    some = rna_of(world)
    some["rna"].obs["cell_type"] = [name if i < 30 else None for i, name in enumerate(world.truth)]
    assert mapped(world, some).metrics["labels"]["cell_type"]["labeled"] == 30


def test_two_cells(world: World, plain: Mapped):
    """They are embedded and labeled as among others, and tell too little of their batch to be moved far."""
    first = plain.source.obs_names[:2]
    found = mapped(world, {"rna": world.query["rna"][first].copy()}, method="none")
    np.testing.assert_allclose(found.latent.mu.numpy(), plain.latent.mu.numpy()[:2], atol=1e-5)
    assert found.labels["cell_type"].label.tolist() == plain.labels["cell_type"].label[:2].tolist()
    moved = mapped(world, {"rna": world.query["rna"][first].copy()}, method="mixtures").latent.mu.numpy()
    few, many = found.latent.mu.numpy(), plain.latent.mu.numpy()
    centers = world.reference.cells.seen_by(world.reference.trained.model, ("rna",)).mean(0)
    assert np.linalg.norm(moved - few, axis=1).max() < 0.25 * np.linalg.norm(many - centers, axis=1).mean()


def test_cells_of_the_reference_itself_fit_it(world: World):
    """Mapped as new cells, they get the label that they have, and the share that is unknown is that asked for."""
    found = map_reference(world.reference, world.folder / "ours.h5ad", config={"adapter": {"unknown": 0.1}})
    assert found.metrics["quality"]["words"].startswith("the cells fit the reference")
    assert found.metrics["quality"]["unlike_the_reference"] < 0.15
    assert found.metrics["labels"]["cell_type"]["accuracy"] > 0.6
    np.testing.assert_allclose(
        found.latent.mu.numpy(),
        world.reference.cells.seen_by(world.reference.trained.model, ("rna", "adt")),
        atol=1e-5,
    )


# --- what is written


@pytest.fixture(scope="module")
def written(world: World) -> Path:
    """Outputs of the command, with a label that would be a formula or a tag, and proteins imputed."""
    out, data = world.folder / "out", ad.read_h5ad(world.folder / "query.h5ad")
    odd = data.obs["cell_type"].astype(str).to_numpy(dtype=object)
    odd[:2] = ["=cmd|' /C calc'!A0", "</script><img src=x onerror=alert(1)>"]
    data.obs["cell_type"] = odd
    data.obs_names = ["=SUM(A1)", "<b>x</b>", *data.obs_names[2:]]
    data.write_h5ad(world.folder / "odd.h5ad")
    config = world.folder / "mapref.yaml"
    config.write_text(yaml.safe_dump({"adapter": {"neighbors": 10}, "data": {"batch_key": "batch"}}))
    query = world.folder / "odd.h5ad"
    code, said = command(
        "mapref", "adapter.method=mixtures", "--reference", world.folder / "model", "--query", query,
        "--out", out, "--config", config, "--impute", "adt",
    )  # fmt: skip
    assert code == 0, said
    assert "rna: 100 of the reference's 100 features found" in said
    assert re.search(r"cell_type: [\d.]+% of 120 known labels are right", said)
    assert f"report: {out / 'report.html'}" in said
    return out


def test_the_outputs_are_there_and_agree(world: World, written: Path):
    assert {p.name for p in written.iterdir()} == {
        "embeddings.npz", "joint_embeddings.npz", "labels.csv", "features.csv", "mapping.json", "report.html",
        "figures", "imputed_adt.h5ad",
    }  # fmt: skip
    model = world.reference.trained.model
    own, joint = (np.load(written / name) for name in ("embeddings.npz", "joint_embeddings.npz"))
    labels, features = (pd.read_csv(written / name) for name in ("labels.csv", "features.csv"))
    metrics = json.loads((written / "mapping.json").read_text())
    new = joint["of"] == "query"
    assert (new.sum(), (~new).sum()) == (120, 300)
    np.testing.assert_array_equal(joint["z_bio"][new], own["z_bio"])
    np.testing.assert_allclose(
        joint["z_bio"][~new],
        in_coordinates(model, torch.from_numpy(world.reference.cells.seen_by(model, ("rna", "adt")))),
        atol=1e-6,
    )
    assert joint["obs_names"][new].tolist() == own["obs_names"].tolist()
    assert set(joint["batch"][new]) == {"donor_9"}
    assert set(joint["batch"][~new]) == {"batch_1", "batch_2"}
    assert joint["label_cell_type"][new].tolist() == labels["cell_type"].tolist()
    assert joint["label_cell_type"][~new].tolist() == world.reference.cells.labels["cell_type"].tolist()
    assert labels["cell_type"].value_counts().to_dict() == metrics["labels"]["cell_type"]["cells"]
    assert labels["cell_type_confidence"].between(0, 1).all()
    unknown = labels["cell_type"] == UNKNOWN
    assert (unknown == (labels["cell_type_familiar"] < 0.05)).all()
    assert (labels["cell_type"] == labels["cell_type_nearest"])[~unknown].all()
    assert (labels["familiar"] < 0.05).mean() == pytest.approx(metrics["quality"]["unlike_the_reference"])
    assert {"half", "half_confidence", "half_nearest", "half_mixture", "half_mixture_confidence"} <= set(
        labels
    )
    assert features["how"].tolist() == ["exact"] * GENES
    assert metrics["method"] == "mixtures"
    assert metrics["labels"]["cell_type"]["novel_cells"] == 2
    listed = json.loads((written / "figures" / "figures.json").read_text())
    assert {entry["file"] for entry in listed} == {p.name for p in (written / "figures").glob("*.png")}
    assert {"joint_embedding.png", "confusion_0.png", "confidence_0.png"} <= {
        entry["file"] for entry in listed
    }


def test_text_of_others_is_text(written: Path):
    page = (written / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page or "onerror" not in page
    assert page.rstrip().endswith("</html>")
    assert "unlike the reference" in page
    names = pd.read_csv(written / "labels.csv")["obs_name"].tolist()
    assert names[:2] == ["'=SUM(A1)", "<b>x</b>"]
    assert not re.search(r"(^|,)\"?[=+@]", (written / "labels.csv").read_text(), re.MULTILINE)
    assert np.load(written / "embeddings.npz")["obs_names"][0] == "=SUM(A1)", "arrays hold names as they are"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("=a", "'=a"), ("+a", "'+a"), ("@a", "'@a"), ("\ta", "'\ta"), ("a=", "a="), (1.5, 1.5), ("", "")],
)
def test_text_that_is_no_formula(value: Any, shown: Any):
    assert guarded(value) == shown


def test_imputed_values_are_near_to_those_imputed_directly(world: World, written: Path, tmp_path: Path):
    found = ad.read_h5ad(written / "imputed_adt.h5ad")
    direct = ad.read_h5ad(
        imputing.impute(world.folder / "model", "adt", tmp_path / "adt.h5ad", data=world.folder / "odd.h5ad")
    )
    assert found.obs_names.tolist() == direct.obs_names.tolist()
    np.testing.assert_allclose(found.X, direct.X, rtol=1e-3)
    truth = np.log1p(np.asarray(world.query["adt"].X.todense()))
    by_protein = [np.corrcoef(np.log1p(found.X)[:, i], truth[:, i])[0, 1] for i in range(12)]
    assert np.nanmean(by_protein) > 0.3
    assert not found.obs["measured"].any()


def test_a_folder_is_not_overwritten(world: World, written: Path):
    words = ["mapref", "--reference", world.folder / "model", "--query", world.folder / "query.h5ad", "--out"]
    before = (written / "mapping.json").read_text()
    code, said = command(*words, written)
    assert (code, "give --overwrite" in said) == (2, True)
    for folder in ("run", "model"):
        code, said = command(*words, world.folder / folder, "--overwrite")
        assert code == 2, folder
        assert "choose another" in said
    assert (written / "mapping.json").read_text() == before
    assert not (world.folder / "model" / "mapping.json").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"optim": {"epochs": 3}},
            "section 'optim' is settled by the reference; a mapping takes data and adapter",
        ),
        ({"adapter": {"methd": "none"}}, "unknown key 'methd': did you mean 'method'"),
        ({"adapter": {"method": "scarches"}}, "adapter.method"),
        ({"adapter": {"unknown": 0.0}}, "adapter.unknown"),
        ({"data": {"modalities": ["protein"]}}, "protein"),
        ({"adapter": {"feature_table": "none.csv"}}, "none.csv does not exist"),
    ],
)
def test_settings_that_cannot_work_are_told_and_nothing_is_written(
    world: World, tmp_path: Path, config: dict, message: str
):
    path, out = tmp_path / "mapref.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(config))
    query = world.folder / "query.h5ad"
    code, said = command(
        "mapref", "--reference", world.folder / "model", "--query", query, "--out", out, "--config", path
    )
    assert code == 2
    assert message in said
    assert not out.exists()


def test_what_is_imputed_must_be_decoded(world: World, tmp_path: Path):
    with pytest.raises(InputError, match="impute 'atd': the model has no decoder of it: did you mean 'adt'"):
        map_reference(world.reference, rna_of(world), tmp_path / "o", impute=["atd"])
    with pytest.raises(InputError, match="imputed values go to files; give an output folder"):
        map_reference(world.reference, rna_of(world), impute=["adt"])
    assert not (tmp_path / "o").exists()


def test_a_query_that_holds_no_counts_is_told(world: World):
    query = rna_of(world)
    query["rna"].X = np.log1p(np.asarray(query["rna"].X.todense()))
    with pytest.raises(InputError, match="rna"):
        mapped(world, query)


# --- every setting does something

EFFECTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "method": ("none", {}),
    "min_overlap": (1.0, {}),
    "labels": (["half"], {}),
    "neighbors": (3, {}),
    "unknown": (0.5, {}),
    "clusters": (1, {}),
    "shrinkage": (2000.0, {}),
    "rank": (0, {"method": "arches"}),
    "epochs": (1, {"method": "arches"}),
    "lr": (0.05, {"method": "arches"}),
}


def outcome(world: World, **adapter: Any) -> Callable[[], list]:
    query = {"rna": world.query["rna"][:, :50].copy()}
    try:
        found = mapped(world, query, **adapter)
    except InputError as error:
        return [str(error)]
    labels = {level: (of.label.tolist(), of.confidence.tolist()) for level, of in found.labels.items()}
    return [found.latent.mu.numpy().round(4).tolist(), labels]


@pytest.mark.parametrize("key", EFFECTS)
def test_every_setting_has_an_effect(world: World, key: str):
    value, beside = EFFECTS[key]
    assert outcome(world, **beside) != outcome(world, **beside, **{key: value})


def test_every_setting_is_tried():
    assert set(EFFECTS) | {"feature_table"} == set(AdapterSettings.model_fields)
