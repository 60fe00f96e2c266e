"""A device that is not the CPU, on the CPU: tensors that say they are elsewhere, and refuse to be mixed.

A machine without a GPU cannot run a model on one, but it can see whether every tensor is where it has to be.
:class:`Away` holds its values in an ordinary tensor and gives its device as ``meta``, the one device that every build
of PyTorch knows. An operation that has tensors of both sorts fails as it does with a GPU, and NumPy takes none of them.

``python tests/another_device.py FOLDER`` trains there what it first trained on the CPU, with a head, a graph and a
bridge, maps cells onto it, and prints how far the two are apart. It is a process of its own because it replaces parts
of torch.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed.tensor  # these look at what is replaced below
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
MOVES = {"aten::_to_copy", "aten::copy_"}
BY_POSITIONS = {"aten::index", "aten::index_put", "aten::index_put_"}
"""Take positions of the CPU for values of a GPU."""


class Away(torch.Tensor):
    """A tensor of :data:`DEVICE` with values."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Away:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    is_meta = property(lambda self: False)  # modules load values into it

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:
        return f"Away({self.inner})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """Makes what is asked for on the device, which has no other tensor of it to say so."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


def computed(function: Any, args: Any, kwargs: Any) -> Any:
    """An operation on the values, with its result where it belongs."""
    name, asked = function._schema.name, kwargs.get("device")
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    away = {id(t.inner): t for t in tensors if isinstance(t, Away)}
    if not away and (asked is None or asked.type != DEVICE.type):
        return function(*args, **kwargs)
    told = tree_leaves((args[0], args[2:])) if name in BY_POSITIONS else tensors
    if name not in MOVES and len({isinstance(t, Away) for t in told if torch.is_tensor(t) and t.ndim}) == 2:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {function} got {DEVICE} and cpu"
        )
    if asked is not None:
        stays = asked.type == DEVICE.type
    else:
        stays = isinstance(args[0], Away) if name == "aten::copy_" else True
    result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if torch.Tag.inplace_view in function.tags:
        with no_dispatch():
            function(*args, **kwargs)  # the shape of the holder
        return args[0]

    def outer(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in away:
            return away[id(value)]
        return Away(value) if stays else value

    return tree_map(outer, result)


def _inner(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.inner if isinstance(value, Away) else value


def pretend() -> Elsewhere:
    """Let ``optim.device: auto`` be that device, for good, before remadom is imported; its work goes in the mode."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    generator, autocast, enabled = torch.Generator, torch.autocast, torch.is_autocast_enabled
    torch.Generator = lambda device="cpu": generator()
    torch.inference_mode = torch.no_grad  # in which compound operations come whole
    torch.is_autocast_enabled = lambda device="cpu": device != DEVICE.type and enabled(device)
    torch.autocast = torch.amp.autocast = lambda device_type, **how: (
        contextlib.nullcontext() if device_type == DEVICE.type else autocast(device_type, **how)
    )
    from remadom.results import forecast
    from remadom.train import optim, trainer

    chosen = optim.choose_device
    for module in (optim, trainer, forecast):
        module.choose_device = lambda name: DEVICE if name == "auto" else chosen(name)
    return Elsewhere()


def main(folder: Path) -> None:
    """Train and map on both devices, and say how far the results are apart."""
    import numpy as np
    from anndata import read_h5ad

    from remadom import run
    from remadom.config.reference import Reference
    from remadom.data.mock import generate, to_mudata
    from remadom.evaluating import evaluate
    from remadom.imputing import impute
    from remadom.mapping import map_reference
    from remadom.sharing import save
    from remadom.utils.outputs import EMBEDDINGS

    def z_of(path: Path) -> np.ndarray:
        with np.load(path) as arrays:
            return arrays["z_bio"]

    def pearson_of(done: run.Run) -> np.ndarray:
        return np.array(done.metrics["evaluation"]["imputation"]["adt"]["pearson"], dtype=float)

    data = to_mudata(generate("mosaic", cells=300, genes=30, peaks=24, proteins=6, seed=0))
    rna = data.mod["rna"].X  # thinned, so that rows are sparse
    rna.data = np.random.default_rng(0).binomial(rna.data.astype(int), 0.05).astype(np.float32)
    rna.eliminate_zeros()
    assert rna.nnz < 0.2 * rna.shape[0] * rna.shape[1]
    found: dict[str, dict[str, np.ndarray]] = {}
    devices = []
    for device in ("cpu", "auto"):
        raw = {
            "data": {"batch_key": "batch"},
            "optim": {"device": device, "epochs": 2, "batch_size": 100, "early_stopping": {"enabled": True}},
            "alignment": {name: {"enabled": True} for name in ("mmd", "posterior", "crossgraph")},
            "structure": {"laplacian_enabled": True, "graph_backend": "numpy"},
            "bridge": {"provider": "mnn"},
            "evaluation": {"figures": False, "holdout": {"adt": {"fraction": 0.2}}},
            "logging": {"run_dir": str(folder / device)},
        }
        done = run.train(raw, data=data)
        found[device] = {"z_bio": z_of(done.dir / EMBEDDINGS), "pearson": pearson_of(done)}
        save(folder / device, folder / f"{device}.model", data=data)
        reference = Reference.load(folder / f"{device}.model")
        new = np.intersect1d(data.mod["rna"].obs_names, data.mod["adt"].obs_names)[:40]
        query = {m: data.mod[m][new, :lacking].copy() for m, lacking in (("rna", 20), ("adt", 4))}
        for part in query.values():
            part.obs["batch"] = "new"
        for method in ("none", "arches"):
            mapped = map_reference(reference, query, config={"adapter": {"method": method, "epochs": 1}})
            found[device][f"mapped, {method}"] = mapped.latent.z_bio.numpy()
        imputed = impute(
            folder / f"{device}.model", "adt", folder / f"{device}.h5ad", data=data, missing=True
        )
        found[device]["imputed"] = read_h5ad(imputed).layers["upper"]
        found[device]["embedded"] = z_of(run.embed(folder / device, data, out=folder / f"{device}.npz"))
        found[device]["evaluated"] = pearson_of(evaluate(folder / device, data=data))
        models = (done.assembly.model, reference.trained.model)
        devices.append([next(model.parameters()).device.type for model in models])
    apart = {name: float(np.abs(value - found["auto"][name]).max()) for name, value in found["cpu"].items()}
    print(json.dumps({"devices": devices, "apart": apart}))


if __name__ == "__main__":
    with pretend():
        main(Path(sys.argv[1]))
