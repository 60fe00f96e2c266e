#!/usr/bin/env bash
# Make the mock data of the six problem types, train on each with its configuration, and print one table.
# usage: scripts/run_all_examples.sh [KEY=VALUE]...     settings such as optim.epochs=5 apply to all of them
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
runs=()
for problem in paired unpaired bridge mosaic prediction hierarchical; do
  config=configs/examples/mock_$problem.yaml
  # the generator's options stand in the second line of each configuration
  read -r -a options <<<"$(sed -n 's/^# Data: python scripts\/make_mock_multimodal.py //p' "$config")"
  "$python" scripts/make_mock_multimodal.py "${options[@]}"
  "$python" -m remadom.cli.train --cfg "$config" --overwrite "$@"
  runs+=("runs/mock_$problem")
done
"$python" scripts/summarize_runs.py "${runs[@]}"
