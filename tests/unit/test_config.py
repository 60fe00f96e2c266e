"""Configuration: files, overrides, errors that name the key, and the guide's own spelling."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from remadom.align import HEADS
from remadom.bridges import BRIDGES
from remadom.config.components import beta_schedule, check_components, json_schema
from remadom.config.load import gather, merge_bullets, overlay, parse_override, read_config, to_yaml, validate
from remadom.config.schema import HeadSettings, RunConfig
from remadom.errors import InputError


def test_defaults_are_a_valid_configuration_and_survive_yaml(tmp_path: Path):
    config = validate({})
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config))
    assert validate(read_config(path)) == config


def test_yaml_and_json_are_the_same(tmp_path: Path):
    raw = {"optim": {"epochs": 3}, "model": {"fusion_temps": {"rna": 1.0, "atac": 1.5}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "c.json").write_text(json.dumps(raw))
    assert validate(read_config(tmp_path / "c.yaml")) == validate(read_config(tmp_path / "c.json"))


def test_overrides_go_on_top_and_keep_their_neighbors(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("optim: {epochs: 3, lr: 0.01, amp: {enabled: true}}")
    raw = gather(
        path, ["optim.epochs=50", "optim.amp.dtype=fp16", "data.modalities=[rna, adt]", "optim.lr=1e-4"]
    )
    config = validate(raw)
    assert (config.optim.epochs, config.optim.lr) == (50, 1e-4)
    assert (config.optim.amp.enabled, config.optim.amp.dtype) == (True, "fp16")
    assert config.data.modalities == ("rna", "adt")
    assert parse_override("a.b=c=d") == {"a": {"b": "c=d"}}


def test_the_guides_bullets_are_sections():
    bullets = yaml.safe_load(
        """
        - data:
          - path: my_data.h5ad
          - preprocess:
            - rna: { hvg: 2000, flavor: seurat_v3 }
            - atac:
              - lsi:
                - enabled: true
                - n_components: 50
        - model:
          - latent_bio: 16
          - fusion_temps:
            - rna: 1.0
            - atac: 1.5
        """
    )
    config = validate(merge_bullets(bullets))
    assert config.data.preprocess.atac.lsi.enabled
    assert config.model.fusion_temps == {"rna": 1.0, "atac": 1.5}
    assert merge_bullets({"fusion_temps": [1.0, 1.5]}) == {"fusion_temps": [1.0, 1.5]}
    with pytest.raises(InputError, match="'a' is given twice"):
        merge_bullets([{"a": 1}, {"a": 2}])


BAD = {
    "unknown section": ({"modle": {}}, "unknown key 'modle': did you mean 'model'"),
    "unknown key": ({"optim": {"epoch": 3}}, "optim: unknown key 'epoch': did you mean 'epochs'"),
    "deep unknown key": (
        {"data": {"preprocess": {"rna": {"hgv": 5}}}},
        "data.preprocess.rna: .*did you mean 'hvg'",
    ),
    "wrong type": ({"optim": {"epochs": "many"}}, "optim.epochs: .*integer.*found 'many'"),
    "impossible value": ({"optim": {"lr": -1}}, "optim.lr: .*greater than 0.*found -1"),
    "not a number": ({"optim": {"lr": float("nan")}}, "optim.lr: .*finite"),
    "not a section": ({"optim": 3}, "optim: .*found 3"),
    "unknown choice": ({"optim": {"device": "gpu"}}, "optim.device: .*'cuda'.*found 'gpu'"),
    "fraction of one": ({"data": {"val_fraction": 1.0}}, "data.val_fraction: .*less than 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_file_the_key_and_the_nearest_valid_one(name: str):
    raw, message = BAD[name]
    with pytest.raises(InputError, match=f"^my.yaml: .*{message}" if name != "unknown section" else message):
        validate(raw, "my.yaml")


def test_all_problems_are_told_at_once():
    with pytest.raises(InputError) as caught:
        validate({"optim": {"lr": -1, "epochs": 0}, "model": {"latent_bio": 0}})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"decoders": {"rna": {"hiden": 3}}},
            "model.decoders.rna: unknown key 'hiden': did you mean 'hidden'",
        ),
        ({"decoders": {"rna": {"dispersion": "genes"}}}, "model.decoders.rna.dispersion: .*found 'genes'"),
        ({"decoders": {"adt": {"dispersion": "gene"}}}, "model.decoders.adt: unknown key 'dispersion'"),
        ({"decoders": {"rna": {"likelihood": "zimb"}}}, "did you mean 'zinb'"),
        ({"encoders": {"rnb": {}}}, "unknown modality 'rnb': did you mean 'rna'"),
        ({"encoders": {"rna": {"input": "lognrm"}}}, "did you mean 'lognorm'"),
        ({"beta": {"schedule": "linera"}}, "did you mean 'linear'"),
        ({"beta": {"epochs": -1}}, "model.beta.epochs: .*greater than 0"),
    ],
)
def test_component_sections_are_validated_by_their_own_definition(section, message):
    with pytest.raises(InputError, match=message):
        check_components(validate({"model": section}))


def test_the_guides_keys_exist():
    guide = """
    data.path data.batch_key data.dataset_key data.time_key data.preprocess.rna.hvg data.preprocess.rna.flavor
    data.preprocess.atac.lsi.enabled data.preprocess.atac.lsi.n_components data.preprocess.atac.lsi.obsm_key
    model.latent_bio model.latent_tech model.encoders model.decoders model.fusion_temps
    alignment.mmd.enabled alignment.sinkhorn.params alignment.ot.enabled alignment.gw.enabled
    alignment.crossgraph.enabled alignment.temporal.enabled structure.laplacian_enabled
    structure.laplacian_lambda structure.laplacian_normalized structure.graph_backend structure.graph_metric
    bridge.provider bridge.refresh bridge.mnn.k bridge.mnn.metric bridge.mnn.ann_backend
    optim.epochs optim.batch_size optim.lr optim.weight_decay optim.grad_clip optim.detect_anomaly optim.seed
    optim.scheduler.name optim.scheduler.step_size optim.scheduler.gamma optim.scheduler.T_max
    optim.scheduler.patience optim.scheduler.min_lr optim.amp.enabled optim.amp.dtype
    optim.early_stopping.enabled optim.early_stopping.monitor optim.early_stopping.mode
    optim.early_stopping.patience optim.early_stopping.min_delta
    logging.run_dir logging.log_interval logging.tensorboard
    """
    alignment = {f"alignment.{head}.{key}" for head in HEADS for key in HeadSettings.model_fields}
    bridges = {f"bridge.{name}.{key}" for name in BRIDGES for key in BRIDGES.schema(name).model_fields}
    for key in guide.split():
        if key in alignment | bridges:
            continue
        section: type = RunConfig
        for name in key.split("."):
            assert name in section.model_fields, key
            section = section.model_fields[name].annotation


def test_beta_is_a_number_or_a_schedule():
    assert beta_schedule(validate({"model": {"beta": 0.3}}).model)(7) == 0.3
    schedule = beta_schedule(
        validate({"model": {"beta": {"schedule": "linear", "epochs": 4, "end": 2.0}}}).model
    )
    assert [schedule(e) for e in (0, 2, 4)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.yaml", None, "no such configuration file"),
        ("c.yaml", "optim: [", "not valid YAML"),
        ("c.json", "{", "not valid YAML or JSON"),
        ("c.yaml", "optim: {lr: 1, lr: 2}", "'lr' is given twice"),
        ("c.yaml", "just text", "expected sections.*found str"),
        ("c.yaml", "!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(path)


@pytest.mark.parametrize("text", ["optim.epochs", "=3", "a..b=1", "a=[1"])
def test_overrides_that_are_none(text: str):
    with pytest.raises(InputError, match="override"):
        parse_override(text)


def test_overlay_replaces_values_and_joins_sections():
    assert overlay({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}) == {
        "a": {"b": 1, "c": [2]},
        "d": {"e": 1},
    }


def test_json_schema_describes_every_key():
    schema = json_schema()
    text = json.dumps(schema)
    for word in ("dispersion", "lowrank", "conditional_batches", "T_max", "obsm_key", "modality_dropout"):
        assert f'"{word}"' in text
    model = schema["$defs"]["ModelSettings"]["properties"]
    assert model["encoders"]["additionalProperties"]["anyOf"][0]["additionalProperties"] is False
    assert all("description" in field for field in schema["$defs"]["OptimSettings"]["properties"].values())


def test_reading_a_configuration_imports_no_torch():
    imports = "import sys, remadom.cli.app, remadom.config.load"
    code = f"{imports}; sys.exit(bool({{'torch', 'anndata', 'scanpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
