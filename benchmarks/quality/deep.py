"""SCVI and TOTALVI on the same cells, with their defaults and their whole schedule, scored as remadom is.

    python -m benchmarks.quality.deep --peer-python V/bin/python [--only pbmc10k5k multistudy] [--model scvi totalvi]
    [--threads 1] [--seed 0] [--data ../shared/data] [--scorer ../shared/bench]

``V`` is an environment with ``torch==2.13.0 scvi-tools==1.4.2``. The peer trains in a process of its own on the cells
that have RNA; TOTALVI is given the proteins of all but the hidden cells, which are a batch without proteins, and its
values of the hidden cells are 25 draws decoded as the batches that have proteins, with the background. A training takes
an hour or two: thousands of cells, hundreds of epochs. Printed: a row for each figure, as ``python -m
benchmarks.quality`` prints them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

MODELS = ("scvi", "totalvi")


def peer(model: str, file: Path, holdouts: Path, seed: int, threads: int, out: Path) -> dict[str, float]:
    """Train the peer's model, write what it makes of the cells, return what it took; run by the peer's Python."""
    import mudata as md
    import numpy as np
    import scvi
    import torch
    from scipy import sparse

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    scvi.settings.seed, scvi.settings.verbosity, scvi.settings.dl_num_workers = seed, 40, 0
    md.set_options(pull_on_update=False)
    hidden = json.loads(holdouts.read_text())[file.name]["hidden"].get("adt", [])
    data = md.read_h5mu(file)
    rna = data.mod["rna"].copy()
    rna.X = rna.layers.get("counts", rna.X)
    rna.obs["batch"] = rna.obs["batch"].astype(str)
    if model == "totalvi":
        adt = data.mod["adt"]
        counts = adt.layers.get("counts", adt.X)
        counts = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
        proteins = np.zeros((rna.n_obs, adt.n_vars), dtype=np.float32)
        own = adt.obs_names.get_indexer(rna.obs_names)
        own[rna.obs_names.isin(hidden)] = -1
        proteins[own >= 0] = counts[own[own >= 0]]
        known = np.asarray(rna.obs["batch"])
        lacking = (own < 0) & np.isin(known, known[own >= 0])
        rna.obs["batch"] = np.where(lacking, known + " without proteins", known)
        kept = proteins.sum(0) > 0
        rna.obsm["proteins"] = proteins[:, kept]
        scvi.model.TOTALVI.setup_anndata(rna, batch_key="batch", protein_expression_obsm_key="proteins")
        net = scvi.model.TOTALVI(rna)
    else:
        scvi.model.SCVI.setup_anndata(rna, batch_key="batch")
        net = scvi.model.SCVI(rna)
    began = time.perf_counter()
    net.train(accelerator="cpu", enable_progress_bar=False)
    seconds = time.perf_counter() - began
    made = {
        "obs_names": np.asarray(rna.obs_names, dtype=str),
        "z": net.get_latent_representation(),
    }
    if model == "totalvi":
        measured = sorted(set(rna.obs["batch"][own >= 0]))
        asked = np.flatnonzero(rna.obs_names.isin(hidden))
        _, expected = net.get_normalized_expression(
            indices=asked, n_samples=25, return_mean=True, transform_batch=measured,
            include_protein_background=True,
        )  # fmt: skip
        values = np.zeros((len(asked), adt.n_vars))
        values[:, kept] = np.asarray(expected)
        made |= {"imputed": values, "imputed_names": np.asarray(rna.obs_names[asked], dtype=str)}
    np.savez(out, **made)
    return {"seconds, training": seconds, "epochs": len(net.history["elbo_train"])}


def scores(name: str, file: Path, made: Path) -> dict[str, float]:
    """Figures of what a peer made."""
    import numpy as np

    from benchmarks.quality.scores import DATA, chosen, of_embedding
    from remadom.data.source import Source
    from remadom.eval.imputation import imputation_metrics

    source, found = Source.open(file), np.load(made)
    z = np.full((source.n_cells, found["z"].shape[1]), np.nan)
    z[source.obs_names.get_indexer(found["obs_names"])] = found["z"]
    batch = source.obs["batch"].astype(str).to_numpy()
    figures = of_embedding(DATA[name], source, batch, z)
    if "imputed" in found:
        cells = source.obs_names.get_indexer(found["imputed_names"])
        truth = source.rows("adt", cells).toarray()
        parts = {"": np.ones(len(cells), dtype=bool)}
        parts |= {prefix: batch[cells] == own for prefix, own in DATA[name].alone.items()}
        for prefix, part in parts.items():
            values = chosen("adt", imputation_metrics(found["imputed"][part], truth[part]))
            figures |= {f"{prefix}{key}": value for key, value in values.items()}
    return figures


def main() -> None:
    """Print a row for each figure."""
    shared = Path(__file__).parents[3] / "shared"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python")
    parser.add_argument("--only", nargs="*", default=["pbmc10k5k", "multistudy"])
    parser.add_argument("--model", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--scorer", type=Path, default=shared / "bench")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        model, *paths = asked.one
        file, holdouts, out = map(Path, paths)
        print("\n" + json.dumps(peer(model, file, holdouts, asked.seed, asked.threads, out)))
        return
    if not (asked.scorer / "quality.py").exists():
        print(f"skipped: {asked.scorer / 'quality.py'} is not there")
        return
    if not asked.peer_python:
        raise SystemExit("--peer-python is missing: the Python of an environment that has scvi-tools")
    from benchmarks.elbo_race import child
    from benchmarks.quality.scores import DATA

    sys.path.insert(0, str(asked.scorer))
    warnings.simplefilter("ignore")
    print(f"{'data':12} {'method':9} {'figure':28} {'value':>8}")
    for name in asked.only:
        file = asked.data / DATA[name].file
        for model in asked.model:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "made.npz"
                one = [model, str(file), str(asked.scorer / "holdouts.json"), str(out)]
                settings = ["--threads", str(asked.threads), "--seed", str(asked.seed)]
                took = child([asked.peer_python, __file__, *settings, "--one", json.dumps(one)])
                for figure, value in (took | scores(name, file, out)).items():
                    print(f"{name:12} {model:9} {figure:28} {value:8.3f}", flush=True)


if __name__ == "__main__":
    main()
