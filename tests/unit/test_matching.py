"""Features of a query among those of a reference: what is found, what is never guessed, what is added up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remadom.config.query import read_feature_table
from remadom.data.matching import MISSING, Match, match_features
from remadom.errors import InputError


def found(match: Match) -> dict[str, str]:
    """Name in the query by name in the reference."""
    return {
        name: "+".join(of)
        for name, of, there in zip(match.reference, match.found, match.present, strict=True)
        if there
    }


def how(reference: str, query: str, **options) -> str:
    return match_features("rna", [reference], [query], **options).how[0]


@pytest.mark.parametrize(
    ("reference", "query", "kind"),
    [
        ("CD3E", "CD3E", "exact"),
        ("CD3E", "Cd3e", "case"),
        ("ENSG00000198851", "ENSG00000198851.4", "version"),
        ("ENSG00000198851.10", "ENSG00000198851.4", "version"),
        ("ENSMUSG00000032093.2", "ensmusg00000032093", "case and version"),
        ("HLA-A", "HLA.A", "punctuation"),
        ("CD45RA", "cd45-ra", "punctuation"),
        ("CD8 (RPA-T8)", "CD8_RPA.T8", "punctuation"),
        ("TCR Vβ7.2", "TCR-Vβ7-2", "punctuation"),
        ("chr1:100-200", "chr1-100-200", "punctuation"),
        # other things that look alike
        ("AL627309.1", "AL627309.5", MISSING),
        ("AL627309", "AL627309.5", MISSING),
        ("CD3-1", "CD31", MISSING),
        ("TCR Vβ2", "TCR Vδ2", MISSING),
        ("chr1:1100-1200", "chr11:100-1200", MISSING),
        ("IL2", "IL20", MISSING),
    ],
)
def test_spellings(reference: str, query: str, kind: str):
    assert how(reference, query) == kind
    assert how(query, reference) == kind


def test_an_exact_name_goes_before_other_spellings():
    match = match_features("rna", ["Cd4", "CD8A"], ["CD4", "Cd4", "cd8a", "CD8A"])
    assert found(match) == {"Cd4": "Cd4", "CD8A": "CD8A"}
    assert match.matrix.toarray().tolist() == [[0, 0], [1, 0], [0, 0], [0, 1]]
    assert match.extra == 2


@pytest.mark.parametrize(
    ("reference", "query"),
    [
        (["CD4"], ["cd4", "Cd4"]),  # two names of the query
        (["Cd4", "CD4"], ["cd4"]),  # two of the reference
        (["HLA-A"], ["HLA.A", "HLA_A"]),
        (["ENSG01.1", "ENSG01.2"], ["ENSG01.3"]),
        (["ENSG01"], ["ENSG01.1", "ENSG01.2"]),
    ],
)
def test_what_could_mean_two_is_not_guessed(reference: list[str], query: list[str]):
    match = match_features("rna", reference, query)
    assert not match.present.any()
    assert match.extra == len(query)
    assert match.matrix.nnz == 0


def test_one_of_two_spellings_is_left_by_the_other():
    """``cd4`` is no longer ambiguous once ``CD4`` of the query has been taken by its own name."""
    match = match_features("rna", ["CD4", "cd-4"], ["CD4", "cd4"])
    assert found(match) == {"CD4": "CD4"}
    match = match_features("rna", ["ens1.2", "ENS1"], ["ens1"])
    assert found(match) == {"ens1.2": "ens1"}, "one feature of the query stands for one of the reference"


def test_a_name_that_occurs_more_than_once_is_added_up():
    match = match_features("rna", ["A", "B"], ["B", "A", "A", "x"])
    counts = np.array([[1, 2, 3, 100], [0, 5, 0, 100]])
    assert (counts @ match.matrix.toarray()).tolist() == [[5, 1], [5, 0]]
    assert match.summary()["several"] == 1
    assert match.table()["query"].tolist() == ["A, A", "B"]
    lower = match_features("rna", ["A"], ["a", "a"])
    assert lower.how[0] == "case"
    assert lower.matrix.toarray().tolist() == [[1], [1]]


def test_the_table_says_what_a_name_means():
    table = {"SEPT7": "SEPTIN7", "B": "A", "not there": "nowhere"}
    match = match_features("rna", ["SEPTIN7", "A", "B"], ["SEPT7", "B"], table=table)
    assert found(match) == {"SEPTIN7": "SEPT7", "A": "B"}, "B is A, not itself"
    assert set(match.how[:2]) == {"table"}
    beside = match_features("rna", ["A"], ["A", "old"], table={"old": "A"})
    assert found(beside) == {"A": "A"}
    assert beside.extra == 1
    again = match_features("rna", ["CD8A"], ["cd8a"], table={"cd8a": "CD8A"})
    assert again.how[0] == "table"
    with pytest.raises(
        InputError, match=r"rna: the table says that 'SEPT7' is 'SEPTN7': did you mean 'SEPTIN7'"
    ):
        match_features("rna", ["SEPTIN7"], ["SEPT7"], table={"SEPT7": "SEPTN7"})


def test_the_table_is_a_csv_file(tmp_path: Path):
    assert read_feature_table(None) == []
    path = tmp_path / "names.csv"
    with pytest.raises(InputError, match=r"names.csv does not exist; name a CSV file with the columns"):
        read_feature_table(str(path))
    path.write_text("from,to\na,b\n")
    with pytest.raises(InputError, match=r"has the columns from, to, expected query and reference"):
        read_feature_table(str(path))
    path.write_text("")
    with pytest.raises(InputError, match="has the columns none"):
        read_feature_table(str(path))
    path.write_bytes(b'\xef\xbb\xbfquery,reference,modality\r\na,b,rna\r\n"c,1",d,\r\n')
    assert read_feature_table(str(path)) == [
        {"query": "a", "reference": "b", "modality": "rna"},
        {"query": "c,1", "reference": "d", "modality": ""},
    ]


def test_shares_weigh_by_the_counts_of_the_reference():
    match = match_features("rna", ["A", "B", "C", "D"], ["A", "b", "E"], rates=np.array([0.7, 0.1, 0.2, 0.0]))
    assert match.share == pytest.approx(0.8)
    assert match.overlap == 0.5
    told = match.summary()
    assert (told["found"], told["extra"], told["missing"]) == (2, 1, ["C", "D"])
    assert (told["by_exact"], told["by_case"]) == (1, 1)
    assert match_features("rna", ["A", "B"], ["A"]).share == 0.5
    assert match.table()["how"].tolist() == ["exact", "case", MISSING, MISSING]


def test_nothing_in_common():
    match = match_features("rna", ["A", "B"], ["X", "Y", "Z"])
    assert (match.overlap, match.share, match.extra) == (0, 0, 3)
    assert match.matrix.shape == (3, 2)
    assert match.table()["query"].tolist() == ["", ""]
    assert match_features("rna", ["A"], []).matrix.shape == (0, 1)


NAMES = st.lists(
    st.sampled_from(
        [
            "A",
            "a",
            "A.1",
            "a-1",
            "A_1",
            "ENS1",
            "ENS1.1",
            "ens1.2",
            "ENS1.2",
            "B-1",
            "b.1",
            "B1",
            "HLA-A",
            "hlaA",
            "é",
            "É",
        ]
    ),
    min_size=1,
    max_size=10,
)


@given(NAMES.map(lambda names: list(dict.fromkeys(names))), NAMES, st.randoms())
@settings(max_examples=200, deadline=None)
def test_of_any_names(reference: list[str], query: list[str], random):
    match = match_features("rna", reference, query)
    taken = match.matrix.toarray()
    assert taken.sum(1).max(initial=0) <= 1, "no count is used twice"
    assert (taken.any(0) == match.present).all()
    assert match.extra == (taken.sum(1) == 0).sum()
    for i, name in enumerate(reference):
        if name in query:
            assert match.how[i] == "exact"
            assert [query[column] for column in np.flatnonzero(taken[:, i])] == [name] * query.count(name)
        else:
            assert len({query[column] for column in np.flatnonzero(taken[:, i])}) <= 1
    shuffled, permuted = random.sample(query, len(query)), random.sample(reference, len(reference))
    assert found(match_features("rna", permuted, shuffled)) == found(match)


def peaks(rng: np.random.Generator, n: int, mark: str) -> list[str]:
    """Random intervals, some of them twice, on chromosomes with names that are prefixes of one another."""
    chromosome = rng.choice(["chr1", "chr11", "chrX", "GL000194.1"], n)
    start = rng.integers(0, 3000, n)
    width = np.where(rng.random(n) < 0.1, 900, rng.integers(1, 120, n))
    names = [f"{c}{mark}{a}-{a + w}" for c, a, w in zip(chromosome, start, width, strict=True)]
    return names + names[:3]


@pytest.mark.parametrize("seed", range(5))
def test_peaks_meet_where_they_overlap(seed: int):
    rng = np.random.default_rng(seed)
    reference, query = list(dict.fromkeys(peaks(rng, 60, ":"))), peaks(rng, 80, "-")
    query += reference[:5]
    match = match_features("atac", reference, query)
    taken = match.matrix.toarray() > 0

    def bounds(name: str) -> tuple[str, int, int]:
        chromosome, start, end = name.replace(":", "-").rsplit("-", 2)
        return chromosome, int(start), int(end)

    kinds = set()
    for i, mine in enumerate(map(bounds, reference)):
        overlapping = [
            theirs[0] == mine[0] and theirs[1] < mine[2] and mine[1] < theirs[2]
            for theirs in map(bounds, query)
        ]
        same = [theirs == mine for theirs in map(bounds, query)]
        expected = same if any(same) else overlapping
        assert taken[:, i].tolist() == expected, reference[i]
        kinds.add(match.how[i])
    assert kinds == {"exact", "overlap", MISSING}
    order = rng.permutation(len(query))
    again = match_features("atac", reference, [query[at] for at in order])
    assert (again.matrix.toarray() == match.matrix.toarray()[order]).all()


def test_a_peak_that_overlaps_several_gives_to_each_and_touching_is_not_overlapping():
    match = match_features(
        "atac", ["chr1:100-200", "chr1:300-400", "chr1:500-600"], ["chr1:150-350", "chr1:400-500"]
    )
    assert match.matrix.toarray().tolist() == [[1, 1, 0], [0, 0, 0]]
    assert match.extra == 1


def test_names_that_are_no_intervals_do_not_overlap():
    assert not match_features("atac", ["chr1:100-200", "gene"], ["chr1:150-250"]).present.any()
    assert not match_features("atac", ["chr1:100-200"], ["chr1:150-250", "gene"]).present.any()
    assert not match_features("atac", ["1:100-200"], ["chr1:100-200"]).present.any()
