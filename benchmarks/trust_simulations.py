"""How often the verdict on an integration is right: 50 simulated integrations, half of them impossible.

Data are mocks of known truth (docs/mock_data.md). Most embeddings are made by simple known procedures: the true
latent position with noise, principal components after centering each cohort, one cohort forced onto the other by
optimal transport, noise; seven are those of models that are trained here (20 epochs, the mock's own settings).
Labels are not shown to the verdict.
Thresholds were set with seeds from 1000; these are under 1000. ``python benchmarks/trust_simulations.py [--real]``;
``--real`` looks at ../shared/data/pbmc10k5k_cite_totalvi.h5mu instead.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import ot
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from remadom.config.build import assemble
from remadom.data.mock import MockData, generate, mock_config, to_mudata
from remadom.data.views import NORMALIZED, views_in, views_of
from remadom.eval.metrics import embedding_metrics
from remadom.eval.trust import trust
from remadom.train.embedding import embed_cells
from remadom.train.trainer import Trainer
from remadom.types import View
from remadom.utils.seed import seed_everything

KINDS = {"rna": "lognorm", "atac": "tfidf", "adt": "clr"}
FULL, PART, BLIND, GOOD = {"not"}, {"partly", "not"}, {"unknown"}, {"aligned"}
REAL = Path(__file__).parents[2] / "shared" / "data" / "pbmc10k5k_cite_totalvi.h5mu"
MIXED = 0.4
"""iLISI above which the naive baseline says aligned."""


@dataclass
class Case:
    """An integration: embedding, cohorts, what was measured, and the verdicts that are right."""

    z: np.ndarray
    cohort: np.ndarray
    views: dict[str, View]
    unimodal: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass
class Data:
    """Cells of a mock, possibly spoiled."""

    latent: np.ndarray
    cohort: np.ndarray
    type: np.ndarray
    counts: dict[str, sp.csr_matrix]
    has: dict[str, np.ndarray]
    rng: np.random.Generator

    def take(self, keep: np.ndarray) -> Data:
        return Data(
            self.latent[keep],
            self.cohort[keep],
            self.type[keep],
            {m: x[keep] for m, x in self.counts.items()},
            {m: x[keep] for m, x in self.has.items()},
            self.rng,
        )

    def views(self) -> dict[str, View]:
        return {
            m: View(
                m,
                np.flatnonzero(has),
                NORMALIZED[KINDS[m]](x[has]),
                tuple(f"{m}_{i}" for i in range(x.shape[1])),
            )
            for (m, x), has in zip(self.counts.items(), self.has.values(), strict=True)
        }

    @property
    def second(self) -> np.ndarray:
        return self.cohort == np.unique(self.cohort)[-1]

    def case(self, z: np.ndarray, **more: object) -> Case:
        return Case(z, self.cohort, self.views(), **more)


def data(
    seed: int, modality: str = "rna", difficulty: float = 0.3, cells: int = 2000, batches: int = 2
) -> Data:
    """Cohorts that all measured one modality."""
    several = ["rna", "atac", "adt"]
    mock = generate(
        "paired", cells=cells, modalities=several, batches=batches, difficulty=difficulty, seed=seed
    )
    return of_mock(mock, [modality])


def of_mock(mock: MockData, modalities: Sequence[str]) -> Data:
    return Data(
        mock.latent,
        mock.obs["batch"].astype(str).to_numpy(),
        mock.obs["cell_type"].astype(str).to_numpy(),
        {m: mock.truth[m] for m in modalities},
        {m: mock.has[m] for m in modalities},
        np.random.default_rng([mock.parameters["seed"], 7]),
    )


# how an embedding is made


def true_latent(d: Data, noise: float = 0.2) -> np.ndarray:
    return d.latent + noise * d.rng.standard_normal(d.latent.shape)


def components(d: Data, n: int = 15) -> np.ndarray:
    """Of the one modality, each cohort centered."""
    (view,) = d.views().values()
    x = np.asarray(view.dense, dtype=float)
    for cohort in np.unique(d.cohort):
        x[d.cohort == cohort] -= x[d.cohort == cohort].mean(0)
    return PCA(n, random_state=0).fit_transform(x)


def forced(d: Data) -> np.ndarray:
    """The second cohort moved onto the first by optimal transport."""
    x, b = components(d), d.second
    plan = ot.emd(*(np.full(n, 1 / n) for n in (sum(~b), sum(b))), ot.dist(x[~b], x[b]), numItermax=10**6)
    z = x.copy()
    z[b] = plan.T @ x[~b] * b.sum()
    return z + 0.1 * z.std(0) * d.rng.standard_normal(z.shape)


def forced_blind(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Components of two cohorts that share nothing, matched in order of their variance by transport."""
    a, b = (PCA(10, random_state=0).fit_transform(x) for x in (a, b))
    a, b = a / a.std(0), b / b.std(0)
    plan = ot.emd(*(np.full(len(x), 1 / len(x)) for x in (a, b)), ot.dist(a, b), numItermax=10**6)
    z = np.concatenate([a, plan.T @ a * len(b)])
    return z + 0.1 * rng.standard_normal(z.shape)


# how data are made impossible, or harder


def of_types(d: Data, *types: str) -> np.ndarray:
    """Cells of major ("A") or minor ("A1") types."""
    return np.array([t.startswith(types) for t in d.type])


def without(d: Data, *types: str, second: bool = False) -> Data:
    """Without cells of some types in one of the cohorts."""
    return d.take(~(of_types(d, *types) & (d.second == second)))


def disjoint(d: Data) -> Data:
    return without(without(d, "A", "B", second=True), "C", "D")


def permuted(d: Data) -> Data:
    """The features of the second cohort in another order."""
    for m, x in d.counts.items():
        order, b = d.rng.permutation(x.shape[1]), d.second
        mixed = x.tolil()
        mixed[b] = x[b][:, order]
        d.counts[m] = sp.csr_matrix(mixed)
    return d


def unrelated(d: Data, other: Data) -> Data:
    """The second cohort of another data set."""
    for m, x in d.counts.items():
        d.counts[m] = sp.vstack([x[~d.second], other.counts[m][other.second]], format="csr")
    return d


def rarer(d: Data, share: float, *types: str, second: bool = True) -> Data:
    """With a share of one cohort's cells of some types."""
    chosen = (d.second == second) & of_types(d, *types)
    return d.take(~chosen | (d.rng.random(len(d.type)) < share))


def pushed(d: Data, by: float, *types: str) -> np.ndarray:
    """The true latent positions, some types of the second cohort moved off."""
    z = true_latent(d)
    z[d.second & of_types(d, *types), -1] += by
    return z


def mosaic(
    seed: int,
    difficulty: float,
    noise: float,
    spoiled: Callable[[Data, np.ndarray], np.ndarray] | None = None,
) -> Case:
    """Cohorts of RNA, of proteins, and one of both between them."""
    d = of_mock(
        generate("bridge", cells=3000, modalities=["rna", "adt"], difficulty=difficulty, seed=seed),
        ["rna", "adt"],
    )
    z = true_latent(d, noise)
    both = np.flatnonzero(d.has["rna"] & d.has["adt"])
    alone = {
        m: (both, d.latent[both] + 2 * noise * d.rng.standard_normal((len(both), z.shape[1])))
        for m in ("rna", "adt")
    }
    if spoiled is not None:
        alone["adt"] = (both, spoiled(d, alone["adt"][1]))
    return d.case(z, unimodal=alone)


def unlinked(seed: int, how: str) -> Case:
    """Cohorts of RNA and of proteins, and nothing between them."""
    d = of_mock(
        generate("unpaired", cells=2000, modalities=["rna", "adt"], difficulty=0.2, seed=seed), ["rna", "adt"]
    )
    if how == "true":
        return d.case(true_latent(d))
    views = d.views()
    return d.case(forced_blind(views["rna"].dense, views["adt"].dense, d.rng))


def one_of_three(seed: int) -> Case:
    """Three cohorts; the last was forced together with permuted features."""
    d = permuted(data(seed, cells=3000, batches=3))
    return d.case(true_latent(d))


def trained(problem: str, seed: int, spoil: Callable[[MockData], MockData] | None = None) -> Case:
    """The embedding of a model trained for twenty epochs, and, of cells that have both, from either modality alone."""
    mock = generate(problem, modalities=["rna", "adt"], seed=seed, difficulty=0.2, cells=1800)
    mock = spoil(mock) if spoil else mock
    raw = mock_config(mock, "mock.h5mu")
    raw["optim"] |= {"epochs": 20}
    seed_everything(seed)
    assembly = assemble(raw, data=to_mudata(mock))
    Trainer(assembly.objective, assembly.config.optim).fit(assembly.training_loader())
    source, cells = assembly.source, np.arange(assembly.source.n_cells)
    assembly.objective.eval()
    z = embed_cells(assembly.model, assembly.loader(cells)).z_bio.numpy()
    both = np.flatnonzero(source.has["rna"] & source.has["adt"])
    alone = {}
    if len(both):
        for kept, hidden in (("rna", "adt"), ("adt", "rna")):
            seen = assembly.loader(both, source.hide(hidden, np.isin(cells, both)))
            alone[kept] = (both, embed_cells(assembly.model, seen).z_bio.numpy())
    return Case(z, source.obs["batch"].astype(str).to_numpy(), views_of(source), alone)


def mock_permuted(mock: MockData) -> MockData:
    """Both modalities of the second batch with their features in another order."""
    d = permuted(of_mock(mock, mock.modalities))
    return replace(mock, truth=d.counts)


def mock_disjoint(mock: MockData) -> MockData:
    """The two batches without a type in common."""
    d = of_mock(mock, mock.modalities)
    keep = np.where(d.second, of_types(d, "C", "D"), of_types(d, "A", "B"))
    return replace(
        mock,
        truth={m: x[keep] for m, x in mock.truth.items()},
        has={m: x[keep] for m, x in mock.has.items()},
        obs=mock.obs[keep],
        latent=mock.latent[keep],
    )


def on(
    make: Callable[[Data], np.ndarray], change: Callable[[Data], Data] | None = None
) -> Callable[[Data], Case]:
    """An embedding of data, after a change of the data."""

    def build(d: Data) -> Case:
        d = change(d) if change else d
        return d.case(make(d))

    return build


def cases() -> list[tuple[str, set[str], Callable[[], Case]]]:
    """Kind, verdicts that are right, and how it is made."""

    def of(
        name: str, right: set[str], build: Callable[[Data], Case], *settings: tuple[str, float, int]
    ) -> list:
        return [
            (f"{name}, {m}, {d:g}", right, lambda m=m, d=d, seed=seed: build(data(seed, m, d)))
            for m, d, seed in settings
        ]

    return [
        # possible: 25
        *of("true position", GOOD, on(true_latent),
            ("rna", 0.1, 1), ("adt", 0.3, 2), ("atac", 0.3, 3), ("rna", 0.5, 4)),
        *of("centered components", GOOD, on(components),
            ("rna", 0.1, 5), ("rna", 0.3, 6), ("adt", 0.5, 7), ("atac", 0.3, 8)),
        *of("imbalance", GOOD, on(true_latent, lambda d: rarer(rarer(d, 0.15, "A"), 0.15, "B", second=False)),
            ("rna", 0.3, 9), ("adt", 0.4, 10), ("atac", 0.2, 11)),
        *of("private type, apart", GOOD, on(true_latent, lambda d: without(d, "C")),
            ("rna", 0.2, 12), ("adt", 0.3, 13), ("atac", 0.3, 14)),
        *of("small cohort", GOOD, on(true_latent, lambda d: rarer(d, 0.25, "")),
            ("rna", 0.2, 15), ("adt", 0.4, 16)),
        ("three cohorts", GOOD, lambda: on(true_latent)(data(17, cells=3000, batches=3))),
        ("three cohorts, hard", GOOD, lambda: on(true_latent)(data(18, difficulty=0.45, cells=4500, batches=3))),
        ("bridge", GOOD, lambda: mosaic(19, 0.2, 0.2)),
        ("bridge", GOOD, lambda: mosaic(20, 0.35, 0.2)),
        ("bridge, noisy", GOOD, lambda: mosaic(21, 0.3, 0.35)),
        ("trained: paired", GOOD, lambda: trained("paired", 22)),
        ("trained: prediction", GOOD, lambda: trained("prediction", 23)),
        ("trained: bridge", GOOD, lambda: trained("bridge", 24)),
        ("trained: mosaic", GOOD, lambda: trained("mosaic", 25)),
        # impossible, or spoiled: 25
        *of("disjoint types, forced", FULL, on(forced, disjoint),
            ("rna", 0.1, 31), ("adt", 0.3, 32), ("rna", 0.5, 33)),
        *of("disjoint types, apart", FULL, on(true_latent, disjoint), ("rna", 0.2, 34)),
        *of("features permuted, forced", FULL, on(forced, permuted),
            ("rna", 0.2, 35), ("adt", 0.4, 36), ("atac", 0.3, 37)),
        *of("features permuted, true position", FULL, on(true_latent, permuted), ("rna", 0.4, 38)),
        *of("unrelated data, forced", FULL, on(forced, lambda d: unrelated(d, data(139))), ("rna", 0.3, 39)),
        *of("private type, forced (A)", PART, on(forced, lambda d: without(d, "A")), ("rna", 0.3, 40)),
        *of("private type, forced (C)", PART, on(forced, lambda d: without(d, "C")),
            ("rna", 0.4, 41), ("adt", 0.3, 42)),
        *of("private subtype, forced (A2)", PART, on(forced, lambda d: without(d, "A2")), ("rna", 0.2, 43)),
        ("no link, true position", BLIND, lambda: unlinked(44, "true")),
        ("no link, forced", BLIND, lambda: unlinked(46, "forced")),
        *of("batch effect left", FULL, on(lambda d: pushed(d, 6.0, "")), ("rna", 0.2, 47), ("adt", 0.4, 48)),
        *of("batch effect left in a type", PART, on(lambda d: pushed(d, 6.0, "A")), ("rna", 0.3, 49)),
        *of("collapsed to a point", FULL, on(lambda d: np.zeros((len(d.cohort), 8))), ("rna", 0.2, 50)),
        *of("noise", FULL, on(lambda d: d.rng.standard_normal((len(d.cohort), 8))), ("rna", 0.3, 51)),
        ("one cohort of three permuted", PART, lambda: one_of_three(52)),
        # the cohorts of one modality are aligned with the bridge, not with each other: partly, as for one of three
        ("bridge that does not meet", PART, lambda: mosaic(53, 0.2, 0.2, lambda d, e: d.rng.permutation(e))),
        ("trained: features permuted", FULL, lambda: trained("paired", 54, mock_permuted)),
        ("trained: disjoint types", FULL, lambda: trained("paired", 55, mock_disjoint)),
        ("trained: no link", BLIND | {"not"}, lambda: trained("unpaired", 56)),
    ]  # fmt: skip


def real() -> None:
    """Two runs of one laboratory: as they are, centered, centered in clusters, and with features permuted."""
    views, obs = views_in(REAL)
    cohort = obs["batch"].astype(str).to_numpy()
    names, code = np.unique(cohort, return_inverse=True)
    rna = views["rna"]
    spread = np.asarray(rna.features.power(2).mean(0) - np.square(rna.features.mean(0))).ravel()
    variable = np.sort(np.argsort(-spread)[:1500])
    rng = np.random.default_rng(0)
    order, second = rng.permutation(rna.features.shape[1]), code == 1
    mixed = sp.vstack([rna.features[~second], rna.features[second][:, order]]).tocsr()
    mixed = mixed[np.argsort(np.r_[np.flatnonzero(~second), np.flatnonzero(second)])]
    permuted_view = {"rna": View("rna", rna.cells, mixed, rna.names)}

    def reduced(features: sp.csr_matrix, center: bool) -> np.ndarray:
        x = features[:, variable].toarray().astype(float)
        for c in range(len(names)) if center else ():
            x[code == c] -= x[code == c].mean(0)
        return PCA(20, random_state=0).fit_transform(x)

    def corrected(z: np.ndarray) -> np.ndarray:
        """Cohorts centered in clusters, again and again, as Harmony does."""
        z = z.copy()
        for seed in range(10):
            unit = z / np.linalg.norm(z, axis=1, keepdims=True)
            cluster = KMeans(15, n_init=1, random_state=seed).fit(unit).labels_
            for k in range(15):
                here = cluster == k
                for c in range(len(names)):
                    if (here & (code == c)).sum() > 10:
                        z[here & (code == c)] += z[here].mean(0) - z[here & (code == c)].mean(0)
        return z

    centered = reduced(rna.features, True)
    good = corrected(centered)
    for name, z, seen in (
        ("components", reduced(rna.features, False), views),
        ("components, cohorts centered", centered, views),
        ("components, cohorts centered in clusters", good, views),
        ("the same embedding, features of one cohort permuted", good, permuted_view),
        ("permuted, then centered in clusters", corrected(reduced(mixed, True)), permuted_view),
    ):
        begun = time.perf_counter()
        found = trust(z, cohort, seen)
        score = embedding_metrics(z, batch=cohort)["ilisi"]
        print(f"\n{name}: {found['verdict']} (iLISI {score:.2f}, {time.perf_counter() - begun:.1f} s)")
        print("\n".join(found["words"]))


def main() -> None:
    found = []
    print(f"{'kind':44} {'right':12} {'verdict':8} {'':6} {'iLISI':>5} {'baseline':8} seconds")
    for name, right, make in cases():
        case = make()
        begun = time.perf_counter()
        verdict = trust(case.z, case.cohort, case.views, unimodal=case.unimodal)["verdict"]
        seconds = time.perf_counter() - begun
        mixed = embedding_metrics(case.z, batch=case.cohort)["ilisi"]
        naive = "aligned" if mixed > MIXED else "not"
        found.append((right, verdict, naive))
        print(
            f"{name:44} {'/'.join(sorted(right)):12} {verdict:8} {'' if verdict in right else 'WRONG':6} {mixed:5.2f} "
            f"{naive:8} {seconds:.1f}",
            flush=True,
        )
    for who, at in (("trust", 1), (f"baseline (iLISI > {MIXED})", 2)):
        tell(who, [(row[0], row[at]) for row in found])


def tell(who: str, found: Sequence[tuple[set[str], str]]) -> None:
    good = Counter(verdict for right, verdict in found if right == GOOD)
    bad = Counter(verdict for right, verdict in found if right != GOOD)
    print(f"\n{who}: {sum(verdict in right for right, verdict in found)} of {len(found)} right")
    print(f"{'':12}" + "".join(f"{v:>9}" for v in ("aligned", "partly", "not", "unknown")))
    for name, row in (("good fits", good), ("bad fits", bad)):
        print(f"{name:12}" + "".join(f"{row[v]:9}" for v in ("aligned", "partly", "not", "unknown")))
    print(
        f"a bad fit got a good word: {bad['aligned']} of {bad.total()}; "
        f"a good fit got 'aligned': {good['aligned']} of {good.total()}"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", action="store_true", help=f"look at {REAL.name}")
    real() if parser.parse_args().real else main()
