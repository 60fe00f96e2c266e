"""A saved model: safetensors and JSON, checked before use, the same numbers as the run that it came from."""

from __future__ import annotations

import json
import os
import pickletools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from remadom import run, sharing
from remadom.cli.app import app
from remadom.config.load import overlay, read_config
from remadom.config.reference import Reference
from remadom.config.trained import Trained
from remadom.data.mock import write_mock
from remadom.errors import InputError
from remadom.utils.portable import FORMAT, MANIFEST, SCHEMA, read_manifest, read_portable, write_portable

CONTENT = {
    "text": "é\n</script>",
    "number": 1.0000000000000002,
    "count": 2**53 + 1,
    "nothing": None,
    "yes": True,
    "list": [1, 2.5, "a", [], {}],
    "nested": {
        "a.b": {"c": torch.tensor([1.5, float("nan"), float("-inf")])},
        "rows": [torch.arange(3), "x"],
    },
}
TENSORS = {
    "model": {
        "float32": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "float64": torch.tensor(0.1, dtype=torch.float64),
        "half": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        "long": torch.tensor([2**62]),
        "mask": torch.tensor([True, False]),
        "none": torch.empty(0, 5),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    },
    "cells": {"codes": torch.arange(4, dtype=torch.int32)},
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy().tobytes()
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def numpy_free(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of types that numpy has."""
    return {name: value.contiguous() for name, value in parts.items() if value.dtype != torch.bfloat16}


def test_everything_comes_back_to_the_bit(tmp_path: Path):
    write_portable(tmp_path / "m", CONTENT, TENSORS)
    content, files = read_portable(tmp_path / "m")
    assert same(CONTENT, content)
    assert same(numpy_free(TENSORS["cells"]), files["cells"])
    assert torch.equal(files["model"]["half"], TENSORS["model"]["half"])
    for name, value in numpy_free(TENSORS["model"]).items():
        assert same(value, files["model"][name]), name
    assert set(files["model"]) - set(TENSORS["model"]) == {"nested.a.b.c", "nested.rows.0"}
    manifest = read_manifest(tmp_path / "m")
    assert (manifest["format"], manifest["schema"]) == (FORMAT, SCHEMA)
    assert manifest["tensors"]["model"]["float32"] == ["float32", [3, 4]]
    assert {p.name for p in (tmp_path / "m").iterdir()} == {
        MANIFEST,
        "model.safetensors",
        "cells.safetensors",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {"b": Path("x")}}, r"content.a.b is a pathlib.\w+; a checkpoint holds tensors, text, numbers"),
        ({"a": [np.float32(1)]}, r"content.a\[\] is a numpy.float32"),
        ({"a": print}, r"content.a is a builtins.builtin_function_or_method"),
        ({"a": b"x"}, "content.a has bytes"),
        ({"a": {1: "x"}}, "content.a has bytes, or keys that are no text"),
    ],
)
def test_objects_are_refused_and_nothing_is_written(tmp_path: Path, content: dict, message: str):
    with pytest.raises(InputError, match=message):
        write_portable(tmp_path / "m", content, {})
    assert not (tmp_path / "m").exists()
    write_portable(tmp_path / "m", {"a": 1}, {})
    with pytest.raises(InputError):
        write_portable(tmp_path / "m", content, {})
    assert read_portable(tmp_path / "m")[0] == {"a": 1}


def test_a_folder_that_is_written_again_keeps_nothing_of_before(tmp_path: Path):
    write_portable(tmp_path, {}, TENSORS)
    write_portable(tmp_path, {}, {"model": {}})
    assert {p.name for p in tmp_path.iterdir()} == {MANIFEST, "model.safetensors"}


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change of a manifest."""

    def apply(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(change(manifest) or manifest))

    return apply


def exchanged(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Change of the weights."""

    def apply(folder: Path) -> None:
        parts = load_file(folder / "model.safetensors")
        change(parts)
        save_file(parts, folder / "model.safetensors")

    return apply


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-5])


def linked(folder: Path) -> None:
    os.rename(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def moved(to: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        os.rename(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
        name = to.format(folder.parent)
        edited(lambda m: m["tensors"].update({name: m["tensors"].pop("model")}))(folder)

    return apply


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), r"has no remadom.json: not a saved model; make one"),
    "not JSON": (
        lambda f: (f / MANIFEST).write_text('{"format": '),
        r"remadom.json cannot be read .* damaged",
    ),
    "not text": (
        lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe{}"),
        r"remadom.json cannot be read .* damaged",
    ),
    "deep": (lambda f: (f / MANIFEST).write_text("[" * 100_000), r"remadom.json cannot be read .* damaged"),
    "a list": (lambda f: (f / MANIFEST).write_text("[]"), "is JSON, but not of a saved model"),
    "other JSON": (edited(lambda m: m.update(format="x")), "is JSON, but not of a saved model"),
    "newer": (
        edited(lambda m: m.update(schema=SCHEMA + 1)),
        rf"has layout {SCHEMA + 1}, but .* upgrade remadom",
    ),
    "no number": (edited(lambda m: m.update(schema="1")), "has layout 1, but"),
    "true": (edited(lambda m: m.update(schema=True)), "has layout True"),
    "zero": (edited(lambda m: m.update(schema=0)), "has layout 0"),
    "no list": (edited(lambda m: m.pop("tensors") and None), "does not list its tensors"),
    "no file": (
        lambda f: (f / "model.safetensors").unlink(),
        r"model.safetensors is missing; copy the whole folder",
    ),
    "cut short": (cut, r"model.safetensors cannot be read .* damaged: take another copy"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), r"model.safetensors cannot be read"),
    "a pickle": (
        lambda f: torch.save({"w": print}, f / "model.safetensors"),
        r"model.safetensors cannot be read",
    ),
    "shape": (
        exchanged(lambda t: t.update(a=torch.zeros(3, 2))),
        r"a: found \['float32', \[3, 2\]\], expected \['float32', \[2, 3\]\]",
    ),
    "dtype": (
        exchanged(lambda t: t.update(a=torch.zeros(2, 3, dtype=torch.float64))),
        r"a: found \['float64', \[2, 3\]\], expected \['float32'",
    ),
    "name": (
        exchanged(lambda t: t.update(other=t.pop("a"))),
        r"a: found none, expected \['float32', \[2, 3\]\]; other: found \['float32', \[2, 3\]\], expected none",
    ),
    "many": (exchanged(lambda t: t.update({f"x{i}": torch.zeros(1) for i in range(5)})), "and 2 more"),
    "a tensor that is not there": (
        edited(lambda m: m.update(b={"tensor": "q"})),
        r"names the tensor 'q', which is not",
    ),
    "a link": (linked, "lies outside of the folder of the model; it was not opened"),
    "above": (moved("../elsewhere"), "lies outside of the folder of the model; it was not opened"),
    "absolute": (moved("{}/elsewhere"), "lies outside of the folder of the model; it was not opened"),
    "below": (moved("down/elsewhere"), "lies outside of the folder of the model; it was not opened"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_told(tmp_path: Path, kind: str):
    break_it, message = DAMAGE[kind]
    folder = write_portable(tmp_path / "m", {"b": torch.zeros(1)}, {"model": {"a": torch.zeros(2, 3)}})
    assert read_portable(folder)[1]["model"]["a"].shape == (2, 3)
    break_it(folder)
    with pytest.raises(InputError, match=message):
        read_portable(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A tiny run with paths in its configuration, and beside it ``data.h5mu`` and the saved ``model``."""
    folder = tmp_path_factory.mktemp("portable")
    write_mock(folder / "data.h5mu", folder / "data.yaml", "paired", cells=90, genes=25, peaks=20, proteins=5)
    raw = read_config(folder / "data.yaml")
    with md.set_options(pull_on_update=False):
        names = md.read_h5mu(folder / "data.h5mu").obs_names
    (folder / "held.txt").write_text("\n".join(names[:8]))
    quick = {
        "model": {"latent_bio": 4},
        "optim": {"epochs": 1, "batch_size": 45},
        "evaluation": {
            "figures": False,
            "layout": "pca",
            "holdout": {"adt": {"file": str(folder / "held.txt")}},
        },
        "logging": {"run_dir": str(folder / "run")},
    }
    run.train(overlay(raw, quick))
    sharing.save(folder / "run", folder / "model")
    return folder


def command(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_a_saved_folder_holds_no_pickle_and_no_path_of_this_machine(finished: Path):
    files = sorted((finished / "model").iterdir())
    assert {"cells.safetensors", "model.safetensors", MANIFEST} <= {p.name for p in files}
    for path in files:
        content = path.read_bytes()
        assert str(finished).encode() not in content, path
        assert b"/tmp" not in content, path
        assert not content.startswith((b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))), (
            path
        )
        with pytest.raises((ValueError, IndexError)):
            list(pickletools.genops(content))
    assert str(finished) in (finished / "run" / "config.resolved.yaml").read_text()


def test_the_saved_model_is_the_model_of_the_run(finished: Path):
    ours, theirs = Trained.load(finished / "run"), sharing.load(finished / "model")
    weights = theirs.model.state_dict()
    assert list(weights) == list(ours.model.state_dict())
    assert all(torch.equal(value, weights[name]) for name, value in ours.model.state_dict().items())
    assert (ours.groups, ours.prepared.features) == (theirs.groups, theirs.prepared.features)
    assert same(ours.prepared.state(), theirs.prepared.state())
    assert ours.config.model == theirs.config.model
    assert ours.calibration.keys() == theirs.calibration.keys()
    assert all((ours.calibration[m] == theirs.calibration[m]).all() for m in ours.calibration)
    imputed = theirs.metrics["evaluation"]["imputation"]["adt"]
    assert imputed["coverage_90"] == ours.metrics["evaluation"]["imputation"]["adt"]["coverage_90"]
    assert not theirs.model.training


def test_the_cells_are_those_of_the_run(finished: Path):
    ours, theirs = Reference.load(finished / "run").cells, Reference.load(finished / "model").cells
    assert ours.names.tolist() == theirs.names.tolist()
    assert ours.batch.tolist() == theirs.batch.tolist()
    assert ours.labels["cell_type"].tolist() == theirs.labels["cell_type"].tolist()
    for modality, expert in ours.experts.items():
        assert all((a == b).all() for a, b in zip(expert, theirs.experts[modality], strict=True))
    with pytest.raises(InputError, match=r"labels 'cell_typ': did you mean 'cell_type'"):
        Reference.load(finished / "model", ["cell_typ"])
    with pytest.raises(InputError, match=r"labels 'cell_typ': did you mean 'cell_type'"):
        Reference.load(finished / "run", ["cell_typ"])


def test_commands_take_a_saved_model_in_place_of_a_run(finished: Path, tmp_path: Path):
    data, found = finished / "data.h5mu", {}
    for kind in ("run", "model"):
        embedded, imputed = tmp_path / f"{kind}.npz", tmp_path / f"{kind}.h5ad"
        assert command("embed", finished / kind, data, "--out", embedded)[0] == 0
        assert command("impute", finished / kind, data, "--modality", "adt", "--out", imputed)[0] == 0
        mapped = tmp_path / kind
        code, said = command("mapref", "--reference", finished / kind, "--query", data, "--out", mapped)
        assert code == 0, said
        values = ad.read_h5ad(imputed)
        tables = [(mapped / name).read_text() for name in ("labels.csv", "features.csv")]
        numbers = [np.load(embedded)["z_bio"], np.load(mapped / "joint_embeddings.npz")["z_bio"]]
        found[kind] = tables, [*numbers, values.X, values.layers["lower"], values.layers["upper"]]
    assert found["run"][0] == found["model"][0]
    for ours, theirs in zip(found["run"][1], found["model"][1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    code, said = command("embed", finished / "model", "--out", tmp_path / "x.npz")
    assert (code, "data.path is missing: name the .h5ad" in said) == (2, True)


def test_info_says_what_is_there(finished: Path):
    saved, run_dir = (sharing.info(finished / name) for name in ("model", "run"))
    file = sharing.info(finished / "run" / "checkpoint.best.pt")
    assert run_dir == file
    for key in ("parameters", "modalities", "groups", "latent"):
        assert saved[key] == file[key]
    bare = Trained.load(finished / "run").finished({}, {}).model
    n_parameters = sum(v.numel() for v in bare.state_dict().values())
    assert saved["parameters"] == n_parameters
    assert (saved["kind"], saved["layout"], saved["cells"]) == ("saved model", SCHEMA, 90)
    assert saved["labels"] == {
        "cell_type": len(set(Reference.load(finished / "model").cells.labels["cell_type"]))
    }
    assert saved["bytes"] == sum(p.stat().st_size for p in (finished / "model").iterdir())
    likelihood = Trained.load(finished / "model").config.model.decoders["adt"]["likelihood"]
    assert saved["modalities"]["adt"] == {"features": 5, "likelihood": likelihood}
    assert likelihood
    assert (file["kind"], file["epoch"], saved["groups"]["batch"]) == ("checkpoint", 1, 2)


@pytest.mark.parametrize("name", ["run", "model", "run/checkpoint.last.pt"])
def test_info_as_a_command(finished: Path, name: str):
    code, said = command("checkpoint", "info", finished / name)
    assert code == 0
    assert "rna: 25 features, zinb" in said
    assert "latent: 4 dimensions" in said
    assert ("cells: 90" in said) == (name == "model")
    code, said = command("checkpoint", "info", finished / name, "--json")
    assert json.loads(said) == sharing.info(finished / name)


def test_info_of_what_is_no_model(finished: Path, tmp_path: Path):
    for path in (tmp_path, finished / "data.h5mu", tmp_path / "none.pt"):
        code, said = command("checkpoint", "info", path)
        assert (code, said[:6]) == (2, "error:")


def test_a_model_without_its_cells(finished: Path, tmp_path: Path):
    sharing.save(finished / "run", tmp_path / "m")
    assert "cell_0" in str(Reference.load(tmp_path / "m").cells.names[0])
    assert command("save", finished / "run", tmp_path / "m", "--no-cells", "--overwrite")[0] == 0
    assert {p.name for p in (tmp_path / "m").iterdir()} == {MANIFEST, "model.safetensors"}
    assert sharing.info(tmp_path / "m")["cells"] == 0
    assert Trained.load(tmp_path / "m").groups["batch"] == ("batch_1", "batch_2")
    text = (tmp_path / "m" / MANIFEST).read_text()
    assert "cell_0" not in text
    code, said = command(
        "mapref", "--reference", tmp_path / "m", "--query", finished / "data.h5mu", "--out", tmp_path / "out"
    )
    assert code == 2
    assert "was saved without its cells" in said
    assert not (tmp_path / "out").exists()


def test_labels_that_go_with_it_are_chosen(finished: Path, tmp_path: Path):
    sharing.save(finished / "run", tmp_path / "m", labels=["dataset", "split"])
    assert set(Reference.load(tmp_path / "m").cells.labels) == {"dataset", "split"}
    assert set(Reference.load(tmp_path / "m", ["split"]).cells.labels) == {"split"}
    with pytest.raises(InputError, match=r"labels 'splt': did you mean 'split'"):
        sharing.save(finished / "run", tmp_path / "other", labels=["splt"])
    assert not (tmp_path / "other").exists()


def test_a_folder_in_use_is_left_alone(finished: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for words in ([], ["--overwrite"]):
        code, said = command("save", finished / "run", tmp_path / "mine", *words)
        assert (code, "it holds other files" in said) == (2, True)
        code, said = command("save", finished / "run", finished / "data.h5mu", *words)
        assert (code, "exists; choose another folder" in said) == (2, True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert command("save", finished / "run", tmp_path / "empty")[0] == 0
    code, said = command("save", finished / "run", tmp_path / "empty")
    assert (code, "give --overwrite" in said) == (2, True)
    assert command("save", finished / "run", tmp_path / "empty", "--overwrite")[0] == 0
    code, said = command("save", finished / "model", tmp_path / "again")
    assert (code, "holds no finished run" in said) == (2, True)


MODEL_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "other config": (
        edited(lambda m: m["config"]["model"].update(latent_bio=5)),
        r"the weights are not those of the configured model: decoders.\w+.first.weight: found \[128, 6\] float32, "
        r"expected \[128, 7\] float32",
    ),
    "another likelihood": (
        edited(lambda m: m["config"]["model"]["decoders"]["rna"].update(likelihood="nb")),
        "decoders.rna.inflation_head.bias: found .* expected none",
    ),
    "no weights": (
        edited(lambda m: m["tensors"].pop("model") and None),
        "names the tensor|found none, expected",
    ),
    "no cells": (
        edited(lambda m: m["tensors"].pop("cells") and None),
        "the cells of the reference are damaged",
    ),
    "no metrics": (edited(lambda m: m.pop("metrics") and None), r"remadom.json lacks metrics; it is damaged"),
    "no config": (
        edited(lambda m: m.pop("config") and m.pop("groups") and None),
        r"remadom.json lacks config, groups; it is damaged",
    ),
    "unknown likelihood": (
        edited(lambda m: m["config"]["model"]["decoders"]["rna"].update(likelihood="mine")),
        "mine",
    ),
    "unknown key": (edited(lambda m: m["config"]["optim"].update(epoch=1)), "unknown key 'epoch'"),
    "fewer labels": (
        edited(lambda m: m["cells"]["labels"].update(cell_type=["x"])),
        "the cells of the reference are damaged",
    ),
    "an expert that is not there": (
        edited(lambda m: m["cells"]["modalities"].append("histone")),
        "the cells of the reference are damaged .*mu.histone",
    ),
}


@pytest.mark.parametrize("kind", MODEL_DAMAGE)
def test_a_model_whose_parts_do_not_belong_together_is_refused(finished: Path, tmp_path: Path, kind: str):
    break_it, message = MODEL_DAMAGE[kind]
    shutil.copytree(finished / "model", tmp_path / "m")
    break_it(tmp_path / "m")
    with pytest.raises(InputError, match=message):
        Reference.load(tmp_path / "m")


def test_a_run_whose_data_is_gone_can_still_be_saved_without_cells(finished: Path, tmp_path: Path):
    shutil.copytree(finished / "run", tmp_path / "run")
    (finished / "data.h5mu").rename(finished / "gone.h5mu")
    try:
        with pytest.raises(InputError, match="the cells of the reference are needed: .*data.h5mu"):
            sharing.save(tmp_path / "run", tmp_path / "m")
        assert not (tmp_path / "m").exists()
        sharing.save(tmp_path / "run", tmp_path / "m", cells=False)
        assert Trained.load(tmp_path / "m").groups["batch"] == ("batch_1", "batch_2")
    finally:
        (finished / "gone.h5mu").rename(finished / "data.h5mu")
