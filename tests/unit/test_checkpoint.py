"""Checkpoints and files: whole or not there, and never code."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from remadom.errors import InputError
from remadom.utils import files
from remadom.utils.checkpoint import FORMAT, VERSION, load_checkpoint, save_checkpoint
from remadom.utils.files import atomic, second_name, write_text


def parts() -> dict[str, object]:
    model = nn.Linear(30, 20)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(2, 30)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "metadata": {"names": ["a", "b"], "nested": {"x": None, "y": (1, 2.5, True)}},
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "last.pt"
    save_checkpoint(path, **parts())
    return path


def test_everything_comes_back(tmp_path: Path) -> None:
    written = parts()
    save_checkpoint(tmp_path / "a.pt", **written)
    read = load_checkpoint(tmp_path / "a.pt")
    assert read["metadata"] == written["metadata"]
    assert read["epoch"] == 3
    assert all(torch.equal(read["model"][name], value) for name, value in written["model"].items())
    moments = written["optimizer"]["state"][0]
    assert all(torch.equal(read["optimizer"]["state"][0][name], value) for name, value in moments.items())
    assert (read["format"], read["version"]) == (FORMAT, VERSION)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": np.float64(1)}, r"part\.a is a numpy\.float64"),
        ([np.arange(3)], r"part\[\] is a numpy\.ndarray"),
        ({Path("x"): 1}, r"part \(a key\) is a pathlib"),
        (nn.Linear(1, 1), "part is a torch.nn.modules.linear.Linear"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(value: object, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=found):
        save_checkpoint(tmp_path / "a.pt", part=value)
    assert not list(tmp_path.iterdir())


class Harm:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
def test_a_malicious_file_has_no_effect(how: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "harmed"
    content = {"format": FORMAT, "version": VERSION, "model": Harm(mark)}
    if how == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(InputError, match="could run code" if how == "zip" else "not a checkpoint"):
        load_checkpoint(path)
    assert not mark.exists()
    if how != "bare pickle":
        torch.load(path, weights_only=False)
        assert mark.exists(), "the file would have done harm"


def test_nothing_is_inflated(saved: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="compressed parts"):
        load_checkpoint(bomb)


def test_a_truncated_file_is_refused_wherever_it_ends(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [0, 1, 100, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 40)]:
        saved.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged or cut short"):
            load_checkpoint(saved)


def test_a_flipped_byte_is_never_a_wrong_weight(saved: Path) -> None:
    whole, good = saved.read_bytes(), load_checkpoint(saved)
    refused = 0
    for position in random.Random(0).sample(range(len(whole)), 150):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        saved.write_bytes(broken)
        try:
            read = load_checkpoint(saved)
        except InputError:
            refused += 1
        else:  # a byte of the padding
            assert all(torch.equal(read["model"][name], value) for name, value in good["model"].items())
            assert read["metadata"] == good["metadata"]
    assert refused > 75


def test_a_missing_file_names_its_neighbors(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best\.pt does not exist; checkpoints in .*run: last\.pt"):
        load_checkpoint(saved.with_name("best.pt"))
    with pytest.raises(InputError, match=r"is a folder, not a checkpoint; checkpoints in .*run: last\.pt"):
        load_checkpoint(saved.parent)
    with pytest.raises(InputError, match=r"checkpoints in .*: none"):
        load_checkpoint(tmp_path / "nowhere" / "a.pt")


def test_other_peoples_files_and_later_layouts_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="not a checkpoint of remadom"):
        load_checkpoint(tmp_path / "other.pt")
    torch.save({"format": FORMAT, "version": VERSION + 1}, tmp_path / "later.pt")
    with pytest.raises(InputError, match=f"has layout {VERSION + 1}, .* up to {VERSION}; upgrade remadom"):
        load_checkpoint(tmp_path / "later.pt")


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def half(content: object, file: object) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(saved, epoch=4)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(
        "import sys, torch\n"
        "from remadom.utils.checkpoint import save_checkpoint\n"
        "for epoch in range(10**6):\n"
        "    save_checkpoint(sys.argv[1], epoch=epoch, model={'w': torch.full((500_000,), float(epoch))})\n"
    )
    path, delay = tmp_path / "last.pt", random.Random(0)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for _ in range(2):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, script, path], env=environment) as child:
            deadline = time.monotonic() + 60
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(delay.uniform(0.0, 0.2))
            child.send_signal(signal.SIGKILL)
        read = load_checkpoint(path)
        assert (read["model"]["w"] == read["epoch"]).all()


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic(path) as file:
        file.write(b"all of it")
        assert not path.exists()
    assert path.read_bytes() == b"all of it"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_keeps_its_bytes_when_the_first_is_rewritten(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError("operation not supported")

        monkeypatch.setattr(files.os, "link", refuse)
    first, second = tmp_path / "checkpoint.last.pt", tmp_path / "last.pt"
    write_text(first, "one")
    second_name(first, second)
    second_name(first, second)
    assert second.read_text() == "one"
    assert first.samefile(second) == links
    assert len(os.listdir(tmp_path)) == 2
    write_text(first, "two")
    assert second.read_text() == "one"
    second_name(first, second)
    assert second.read_text() == "two"
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.last.pt", "last.pt"]
