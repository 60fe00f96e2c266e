"""Where the time of one training step goes: the parts of a step, timed one by one.

    python benchmarks/step_profile.py [--genes 2000] [--cells 512] [--threads 2] [--inflation gene]

Prints milliseconds (median of 30) for the encoder, the decoder with its likelihood, and the optimizer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch

from remadom.core.decoders.rna import RNADecoderZINB, log_library
from remadom.core.encoder import GaussianEncoder
from remadom.core.inputs import INPUTS
from remadom.core.likelihood import library_zinb_nll
from remadom.train.optim import adamw
from remadom.train.settings import OptimSettings
from remadom.types import Rows
from remadom.utils.memory import keep_freed_memory


def milliseconds(function: Callable[[], object], repeats: int = 30) -> float:
    for _ in range(5):
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("genes", 2000), ("cells", 512), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--inflation", choices=["gene", "cell"], default="gene")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    rng = np.random.default_rng(0)
    counts = sp.random(options.cells, options.genes, 0.1, format="csr", random_state=rng)
    counts.data = (1.0 + rng.geometric(0.4, counts.nnz)).astype(np.float32)
    rows = Rows.from_scipy(counts)
    encoder = GaussianEncoder(options.genes, 10, INPUTS.build("lognorm", options.genes))
    decoder = RNADecoderZINB(10, options.genes, 2, inflation=options.inflation)
    library, labels = rows.totals(), torch.arange(options.cells) % 2
    z = torch.randn(options.cells, 10, requires_grad=True)
    scores, log_theta, pi_logit = (
        head.detach().requires_grad_() for head in decoder.natural(z, None, labels, None)
    )
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = adamw(parameters, OptimSettings(), torch.device("cpu"))

    def encode() -> None:
        sum(part.sum() for part in encoder(rows)).backward()

    def decode() -> None:
        decoder.nll(rows, z, library, labels).mean().backward()

    def likelihood() -> None:
        library_zinb_nll(rows, scores, log_library(library), log_theta, pi_logit).mean().backward()

    encode()
    decode()
    print(
        f"| part of a step ({options.cells} cells, {options.genes} genes, {options.threads} threads) | ms |"
    )
    print("|---|---|")
    for title, function in (
        ("batch: rows gathered and transposed", lambda: Rows.from_scipy(counts)),
        ("encoder, forward and backward", encode),
        ("decoder and likelihood, forward and backward", decode),
        ("of which the likelihood and its gradient", likelihood),
        ("AdamW", optimizer.step),
    ):
        print(f"| {title} | {milliseconds(function):.1f} |")


if __name__ == "__main__":
    main()
