"""Heads, graph and bridge in whole runs: what they leave, that they do something, that a resumed run is the same."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from test_phase1_training import mock

from remadom import run
from remadom.align import HEADS
from remadom.config.build import assemble
from remadom.config.load import overlay
from remadom.errors import InputError
from remadom.train.embedding import embed_cells
from remadom.train.trainer import Trainer
from remadom.utils.checkpoint import load_checkpoint
from remadom.utils.outputs import ALIGNMENT, BRIDGE, EMBEDDINGS, LAST, LOG

SIZES = {"cells": 240, "genes": 40, "peaks": 50, "proteins": 6}
WITH_EDGES = {
    "structure": {"laplacian_enabled": True, "graph_backend": "numpy"},
    "bridge": {"provider": "mnn"},
}


def raw(
    tmp_path: Path, problem: str = "mosaic", suffix: str = ".h5mu", cells: int = SIZES["cells"], **sections
) -> dict:
    """Configuration of a run on a small mock, without figures."""
    quick = {"evaluation": {"figures": False}, "optim": {"epochs": 3, "batch_size": 32}}
    return overlay(overlay(mock(tmp_path, problem, suffix, **SIZES | {"cells": cells}), quick), sections)


def heads(*names: str, **params) -> dict:
    return {name: {"enabled": True, "params": params} for name in names}


@pytest.mark.parametrize("name", [n for n in HEADS if n != "temporal"])
def test_every_head_trains_logs_and_is_measured(tmp_path: Path, name: str):
    done = run.train(raw(tmp_path, alignment=heads(name), **WITH_EDGES))
    section = json.loads((done.dir / ALIGNMENT).read_text())[name]
    assert section["kind"] == HEADS[name].__name__
    for part in ("first_epoch", "last_epoch", "final"):
        assert np.isfinite(list(section[part].values())).all()
    assert section["last_epoch"]["grad_norm"] > 0
    columns = (done.dir / LOG).read_text().splitlines()[0].split(",")
    assert {f"{name}.loss", f"{name}.weight", f"{name}.grad_norm"} <= set(columns)


def test_the_temporal_head_trains_where_the_data_has_times(tmp_path: Path):
    done = run.train(raw(tmp_path, "paired", alignment=heads("temporal")))
    section = json.loads((done.dir / ALIGNMENT).read_text())["temporal"]
    assert section["last_epoch"]["n_pairs"] >= 1
    assert section["final"]["moves"] < 1


def test_a_temporal_head_without_times_says_what_to_add(tmp_path: Path):
    settings = raw(tmp_path, "paired", ".h5ad", alignment=heads("temporal"))
    data = anndata.read_h5ad(settings["data"]["path"])
    del data.obs["time"], settings["data"]["time_key"]
    with pytest.raises(InputError, match=r"alignment\.temporal .*data\.time_key"):
        assemble(settings, data=data)


def test_a_head_that_needs_edges_says_what_to_add(tmp_path: Path):
    with pytest.raises(InputError, match=r"alignment\.crossgraph needs .*bridge\.provider"):
        run.train(raw(tmp_path, alignment=heads("crossgraph")))


def test_two_heads_of_one_kind_have_sections_of_other_names(tmp_path: Path):
    one = {"kind": "mmd", "enabled": True, "params": {"group_key": "batch"}}
    other = {"kind": "mmd", "enabled": True, "params": {"group_key": "modality"}}
    done = run.train(raw(tmp_path, alignment={"by_batch": one, "by_assay": other}))
    sections = json.loads((done.dir / ALIGNMENT).read_text())
    assert set(sections) == {"by_batch", "by_assay"}
    assert set(sections["by_batch"]["groups"]) != set(sections["by_assay"]["groups"])
    assert "rna+adt" in " ".join(sections["by_assay"]["groups"]) or len(sections["by_assay"]["groups"]) > 1


def test_a_head_moves_its_own_metric(tmp_path: Path):
    """Batches of a mock with strong batch effects, with the head watching (weight 0) and with it pulling."""
    apart = []
    for weight in (0.0, 2.0):
        settings = raw(tmp_path / str(weight), "hierarchical", alignment=heads("mmd", weight=weight))
        done = run.train(overlay(settings, {"optim": {"epochs": 20}}))
        apart.append(json.loads((done.dir / ALIGNMENT).read_text())["mmd"]["final"]["loss"])
    assert apart[1] < 0.5 * apart[0]


def test_edges_follow_the_latent_and_are_reported(tmp_path: Path):
    done = run.train(raw(tmp_path, optim={"epochs": 5}, **overlay(WITH_EDGES, {"bridge": {"refresh": 2}})))
    structure = done.assembly.objective.structure
    assert [record["epoch"] for record in structure.history] == [1.0, 3.0]
    assert 0 <= structure.history[1]["kept"] < 1
    found = json.loads((done.dir / BRIDGE).read_text())
    assert found["n_edges"] == len(structure.edges) > 0
    train = set(done.assembly.split.train.tolist())
    assert set(structure.edges.src.tolist()) | set(structure.edges.dst.tolist()) <= train


def test_edges_can_be_filtered_by_their_surroundings(tmp_path: Path):
    """Also those of fixed features, which then wait for the graph of the latent."""
    counts = []
    for least in (0.0, 0.3):
        bridge = {"provider": "linmap", "min_agreement": least}
        done = run.train(
            raw(tmp_path / str(least), "bridge", structure=WITH_EDGES["structure"], bridge=bridge)
        )
        counts.append(len(done.assembly.objective.structure.edges))
    assert 0 < counts[1] < counts[0]


def test_a_term_without_anything_to_do_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    alone = {"structure": {"group_cells": 0}, "optim": {"batch_size": 1}}
    settings = raw(tmp_path, cells=64, alignment=heads("mmd"), **alone)
    with caplog.at_level(logging.WARNING, logger="remadom"):
        run.train(overlay(settings, {"optim": {"epochs": 2}, "data": {"val_fraction": 0.0}}))
    said = [record.getMessage() for record in caplog.records if "does nothing" in record.getMessage()]
    assert len(said) == 1
    assert "mmd" in said[0]


def test_the_terms_are_weighed_by_their_schedules(tmp_path: Path):
    weight = {"schedule": "linear", "start": 0.0, "end": 0.4, "epochs": 2}
    assembly = assemble(raw(tmp_path, alignment=heads("mmd", weight=weight)))
    batch = next(iter(assembly.training_loader()))
    assert assembly.objective(batch, 1.0)[1]["unit"] > 0
    for epoch, expected in ((0.0, 0.0), (1.0, 0.2), (9.0, 0.4)):
        torch.manual_seed(0)
        loss, logs = assembly.objective(batch, epoch)
        terms = logs["elbo.recon"] + logs["beta"] * logs["elbo.kl"]
        torch.testing.assert_close(
            loss.detach(), terms + expected * logs["unit"] * logs["mmd.loss"], rtol=1e-5, atol=1e-4
        )


def test_terms_of_every_second_step_weigh_in_an_epoch_as_those_of_all(tmp_path: Path):
    totals, gradients = {}, {}
    for every in (1, 2, 3):
        settings = raw(tmp_path, alignment=heads("mmd", weight=0.4), optim={"terms_every": every})
        objective = (assembly := assemble(settings)).objective
        batch, n_steps = next(iter(assembly.training_loader())), 5
        objective.begin_epoch(1, n_steps)
        total, with_terms = 0.0, []
        for step in range(n_steps):
            torch.manual_seed(0)
            loss, logs = objective(batch, 1 + step / n_steps)
            loss.backward()
            total += float(logs["loss"] - logs["elbo.recon"] - logs["beta"] * logs["elbo.kl"])
            if "mmd.loss" in logs:
                with_terms.append(step)
                gradients.setdefault(every, float(objective.gradients()["mmd.grad_norm"]))
            else:
                assert not objective.gradients()
        assert with_terms == list(range(0, n_steps, every))
        totals[every] = total
    assert totals[1] != 0
    assert totals[2] == pytest.approx(totals[1], rel=1e-3)
    assert totals[3] == pytest.approx(totals[1], rel=1e-3)
    assert gradients[2] == pytest.approx(gradients[1], rel=1e-3), "a step's share, not that of two"


@pytest.mark.parametrize("died", [1, 2, 4])
def test_a_run_with_edges_is_resumed_to_the_bit(tmp_path: Path, died: int):
    settings = raw(tmp_path, optim={"epochs": 6}, alignment=heads("mmd", "crossgraph"), **WITH_EDGES)
    settings = overlay(settings, {"bridge": {"refresh": 3}, "structure": {"refresh": 2}})
    whole = run.train(overlay(settings, {"logging": {"run_dir": str(tmp_path / "whole")}}))

    class Killed(BaseException):
        pass

    assembly = assemble(settings)
    trainer = Trainer(
        assembly.objective, assembly.config.optim, run_dir=tmp_path / "part", metadata=assembly.metadata()
    )
    begin = assembly.objective.begin_epoch

    def dies(epoch: int, n_steps: int) -> None:
        begin(epoch, n_steps)
        if epoch == died:
            raise Killed

    assembly.objective.begin_epoch = dies
    validation = assembly.loader(assembly.split.val)
    with pytest.raises(Killed):
        trainer.fit(assembly.training_loader(), validation)
    resumed = run.train(
        overlay(settings, {"logging": {"run_dir": str(tmp_path / "part")}}), resume=tmp_path / "part"
    )
    one, other = (load_checkpoint(r.dir / LAST)["model"] for r in (whole, resumed))
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[name], rtol=0, atol=0)
    edges, again = one["structure._extra_state"]["edges"], other["structure._extra_state"]["edges"]
    assert all(torch.equal(edges[key], again[key]) for key in ("src", "dst", "weight"))


def test_a_trained_model_with_heads_embeds_new_data(tmp_path: Path):
    done = run.train(raw(tmp_path, alignment=heads("adversarial"), **WITH_EDGES))
    path = run.embed(done.dir.path, done.assembly.config.data.path, out=tmp_path / "again.npz")
    np.testing.assert_allclose(
        np.load(path)["z_bio"], np.load(done.dir / EMBEDDINGS)["z_bio"], rtol=1e-5, atol=1e-5
    )


def test_partners_change_no_reconstruction(tmp_path: Path):
    assembly = assemble(raw(tmp_path, alignment=heads("mmd"), **WITH_EDGES))
    loader = assembly.training_loader()
    model = assembly.model.eval()
    draw = next(iter(loader.sampler.batches(0)))
    index = assembly.split.train[:40]
    alone, beside = (loader.batch(type(draw)(index[:20], partners)) for partners in (index[:0], index[20:]))
    one, other = (model.elbo(batch) for batch in (alone, beside))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-5)
    assert len(embed_cells(model, [beside]).z_bio) == 40


def test_unknown_heads_providers_and_blocks_name_the_nearest(tmp_path: Path):
    for section, said in (
        ({"alignment": {"mdm": {"enabled": True}}}, "did you mean 'mmd'"),
        ({"alignment": {"mmd": {"enabled": True, "params": {"wieght": 1}}}}, "did you mean 'weight'"),
        ({"alignment": {"mmd": {"params": {"weight": -1}}}}, "greater than or equal to 0"),
        ({"bridge": {"provider": "nmn"}}, "did you mean 'mnn'"),
        ({"bridge": {"provider": "mnn", "nmn": {}}}, "did you mean 'mnn'"),
        ({"bridge": {"provider": "mnn", "mnn": {"kk": 1}}}, "unknown key 'kk'"),
        ({"structure": {"laplacian_enabled": True, "graph_source": "rma"}}, "did you mean 'rna'"),
        ({"bridge": {"provider": "mnn", "groups": [["batch_1", "batch2"]]}}, "unknown batch 'batch2'"),
        ({"bridge": {"provider": "seeded"}}, "bridge.seeds is missing"),
        ({"alignment": {"mmd": {"enabled": True, "params": {"group_key": "donor"}}}}, "no column 'donor'"),
    ):
        with pytest.raises(InputError, match=said):
            assemble(raw(tmp_path, **section))
