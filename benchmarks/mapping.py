"""New cells on a reference, on real PBMC data: right labels, honest confidence, unknown types, and what mapping loses.

Prints one table. References are trained with the defaults, each query is mapped with each method, and with
``--scratch`` beside it stands what the same labels come to when the reference is trained together with the query.
Truth: FACS-sorted cells (Zheng et al.), labels of the TEA-seq study; for the 5k PBMC run only labels derived from its
RNA exist.

    python benchmarks/mapping.py DATA_FOLDER [--out FOLDER] [--methods none,mixtures,arches]
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import mudata as md
import numpy as np
import torch

from remadom import run
from remadom.eval.transfer import label_transfer
from remadom.mapping import map_reference
from remadom.sharing import save

SAME = {
    "CD4 T": "CD4+ T-cells",
    "CD8 T": "CD8+ T-cells",
    "NK": "NK cells",
    "B": "B-cells",
    "Mono": "Monocytes",
}
STUDIES = ("10x_pbmc_protein_v3", "reapseq_pbmc")


def parts(data: Path) -> dict[str, md.MuData]:
    """References and queries by name."""
    with md.set_options(pull_on_update=False):
        two, five = (
            md.read_h5mu(data / name)
            for name in ("pbmc10k5k_cite_totalvi.h5mu", "pbmc_multistudy_cite_mosaic.h5mu")
        )

        def some(of: md.MuData, keep, modalities=("rna", "adt")) -> md.MuData:
            chosen = {m: of[m][keep(of[m])].copy() for m in modalities}
            for part in chosen.values():
                part.obsm.clear()
            return md.MuData({m: part for m, part in chosen.items() if part.n_obs})

        rna = five["rna"].obs_names
        tea = lambda a: (a.obs["dataset"] == "teaseq_pbmc") & ~a.obs_names.isin(rna)  # noqa: E731
        ten = lambda a: a.obs["batch"] == "pbmc10k"  # noqa: E731
        b = set(five["rna"].obs_names[five["rna"].obs["cell_type_pred"] == "B"])
        five_k = some(two, lambda a: a.obs["batch"] == "pbmc5k", ("rna",))
        derived = five_k["rna"].obs["cell_type_pred"].astype(object)
        five_k["rna"].obs["cell_type"] = derived.map(lambda name: SAME.get(name, name))
        return {
            "10k": some(two, ten),
            "10k, no B": some(two, lambda a: ten(a) & (a.obs["cell_type"] != "B-cells")),
            "four batches": some(five, lambda a: a.obs["dataset"].isin(STUDIES)),
            "four batches, no B": some(five, lambda a: a.obs["dataset"].isin(STUDIES) & ~a.obs_names.isin(b)),
            "5k, RNA": five_k,
            "FACS-sorted, RNA": some(five, lambda a: a.obs["dataset"] == "zheng_sorted", ("rna",)),
            "TEA-seq, ADT": some(five, tea, ("adt",)),
        }


PAIRS = (
    ("10k", "5k, RNA"),
    ("10k, no B", "5k, RNA"),
    ("four batches", "FACS-sorted, RNA"),
    ("four batches, no B", "FACS-sorted, RNA"),
    ("four batches", "TEA-seq, ADT"),
)


def joint(reference: md.MuData, query: md.MuData) -> md.MuData:
    """Both as one data set, the query without its labels."""
    import anndata as ad

    merged = {}
    for m in dict.fromkeys([*reference.mod, *query.mod]):
        found = [of[m].copy() for of in (reference, query) if m in of.mod]
        if m in query.mod:
            found[-1].obs["cell_type"] = None
        merged[m] = ad.concat(found, join="inner")
    return md.MuData(merged)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("data", type=Path)
    asked.add_argument("--out", type=Path, default=Path("runs/mapping"))
    asked.add_argument("--methods", default="none,mixtures,arches")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--scratch", action="store_true", help="also train with the query (minutes each)")
    args = asked.parse_args()
    if not args.data.is_dir():
        print(f"skipped: {args.data} is not there")
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = parts(args.data)
    row = "{:20} {:17} {:12} {:>9} {:>9} {:>7} {:>9} {:>9} {:>8}"
    print(
        row.format(
            "reference", "query", "method", "accuracy", "balanced", "ECE", "unknown", "novel", "seconds"
        )
    )
    for name, query in PAIRS:
        folder = args.out / f"{name.replace(', ', '_').replace(' ', '_')}_{args.seed}"
        if not (folder / "model" / "remadom.json").exists():
            config = {
                "optim": {"seed": args.seed},
                "logging": {"run_dir": str(folder)},
                "evaluation": {"figures": False},
            }
            run.train(config, data=data[name], overwrite=True)
            save_from(folder, data[name])
        for method in args.methods.split(","):
            began = time.perf_counter()
            found = map_reference(folder / "model", data[query], config={"adapter": {"method": method}})
            seconds = time.perf_counter() - began
            score = found.metrics["labels"]["cell_type"]
            cells = [
                score.get(key)
                for key in ("accuracy", "balanced_accuracy", "calibration_error", "called_unknown")
            ]
            novel = score.get("novel_called_unknown")
            told = ["-" if value is None else f"{value:.3f}" for value in (*cells, novel)]
            print(row.format(name, query, method, *told, f"{seconds:.1f}"), flush=True)
        if args.scratch:
            print(
                row.format(name, query, "from scratch", *scratch(data[name], data[query], folder)), flush=True
            )


def save_from(folder: Path, data: md.MuData) -> None:
    """Save a run whose data were objects: they are written beside it, for its cells to be read from."""
    data.write(folder / "data.h5mu")
    save(folder, folder / "model", data=folder / "data.h5mu", overwrite=True)


def scratch(reference: md.MuData, query: md.MuData, folder: Path) -> list[str]:
    """The same labels by neighbors in an embedding that was trained on both."""
    both = joint(reference, query)
    began = time.perf_counter()
    done = run.train(
        {"logging": {"run_dir": str(folder / "scratch")}, "evaluation": {"figures": False}},
        data=both,
        overwrite=True,
    )
    seconds = time.perf_counter() - began
    source, z = done.assembly.source, np.load(folder / "scratch" / "embeddings.npz")["mu"]
    truth = (
        next(iter(query.mod.values())).obs["cell_type"].reindex(source.obs_names).astype(object).to_numpy()
    )
    labels = source.obs["cell_type"].astype(object).to_numpy()
    known = {name for name in labels if isinstance(name, str)}
    asked = np.array([isinstance(name, str) and name in known for name in truth])
    told = np.array([isinstance(name, str) for name in labels])
    given = label_transfer(z[told], labels[told].astype(str), z[asked], neighbors=30)
    right = given == truth[asked].astype(str)
    balanced = np.mean([right[truth[asked] == name].mean() for name in set(truth[asked])])
    return [f"{right.mean():.3f}", f"{balanced:.3f}", "-", "-", "-", f"{seconds:.1f}"]


if __name__ == "__main__":
    main()
