"""`sparsekern sweep`: many searches on an engine that exists, submitit: this machine or a Slurm cluster.

The TOML file is that of `sparsekern run`, with lists of values to combine:

    [sweep]
    "search.rate" = [0.1, 0.2]
    "recipe.lr" = [6e-4, 1.2e-3]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import mean, stdev
from typing import Any

from sparsekern.bench import machine
from sparsekern.bench.atomic import write_atomically
from sparsekern.bench.record import strict_json
from sparsekern.cli.bench.table import line
from sparsekern.cli.progress import Bar, say
from sparsekern.cli.study import ELSEWHERE, configs_of, read, require_known
from sparsekern.tickets import Search, SearchConfig, rehearse

POLL_S = 0.5


def sweep(options: argparse.Namespace) -> int:
    """The command: every search of the sweep, those at most `--jobs` at a time; one table at the end.

    Finished runs are kept in `--out`, and are not run again by the next call. Writes sweep.json and sweep.md
    there. ValueError for settings that make no sense, a missing submitit, and, after all others are done, a
    search that failed.
    """
    values = read(options.file, more=("sweep",))
    points = list(combinations(values.pop("sweep", {}), values))
    searches = {name: configs_of(point, options.data_dir) for name, point in points}
    for configs in searches.values():
        rehearse(configs[0])
    options.out.mkdir(parents=True, exist_ok=True)
    _run_all([config for configs in searches.values() for config in configs], options)
    from sparsekern.cli.searches import kernels_of
    from sparsekern.tickets import search

    kept = options.out / "rounds"
    rows = [
        row
        for name, configs in searches.items()
        for row in _rows(name, [search(one, out=kept, swap=kernels_of(one)) for one in configs])
    ]
    table = markdown(rows)
    write_atomically(options.out / "sweep.json", strict_json({"rows": rows}, indent=1).encode())
    write_atomically(options.out / "sweep.md", f"{table}\n".encode())
    say(table, sys.stdout)
    return 0


def combinations(
    axes: Mapping[str, Sequence[Any]], values: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, values of one study) for each combination of what `axes` list, by "table.field" or "field".

    ValueError for an axis that is no list, or is of the seeds, which every study has by itself.
    """
    for axis, choices in axes.items():
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"[sweep] {axis}: a list of values is expected, got {choices!r}")
        if axis.rpartition(".")[2] in ELSEWHERE:
            raise ValueError(f"[sweep] {axis}: not an axis; `seeds` and `blocks` are combined by themselves")
    for chosen in product(*axes.values()):
        point: dict[str, Any] = {
            key: dict(one) if isinstance(one, Mapping) else one for key, one in values.items()
        }
        for axis, value in zip(axes, chosen, strict=True):
            table, _, field = axis.rpartition(".")
            target = point.setdefault(table, {}) if table else point
            target[field] = tuple(value) if isinstance(value, list) else value
        require_known("[sweep]", point)
        yield ", ".join(f"{axis}={value}" for axis, value in zip(axes, chosen, strict=True)) or "all", point


def run_job(config: str, out: str) -> str:
    """One search in a process of the engine; its digest."""
    import torch

    from sparsekern.cli.searches import kernels_of
    from sparsekern.tickets import search

    torch.set_num_threads(1)
    chosen = SearchConfig.from_json(config)
    search(chosen, out=out, swap=kernels_of(chosen))
    return chosen.digest


def _run_all(configs: Sequence[SearchConfig], options: argparse.Namespace) -> None:
    try:
        import submitit
    except ImportError as error:
        raise ValueError(f'sweep: {error}; pip install "sparsekern[sweep]"') from error
    engine = submitit.AutoExecutor(folder=options.out / "jobs", cluster=options.engine)
    slurm = {"slurm_partition": options.partition} if options.partition else {}
    engine.update_parameters(timeout_min=options.minutes, cpus_per_task=1, **slurm)
    waiting, running, failed = list(configs), dict[str, Any](), dict[str, str]()
    with Bar("searches", len(configs), sys.stderr) as bar:
        while waiting or running:
            while len(running) < (options.jobs or machine.usable_cpus()):
                # Searches that differ in rounds or controls only share a folder: one after the other.
                config = next((one for one in waiting if one.digest not in running), None)
                if config is None:
                    break
                waiting.remove(config)
                job = engine.submit(run_job, config.to_json(), str(options.out / "rounds"))
                running[config.digest] = job
            for digest, job in [(digest, job) for digest, job in running.items() if job.done()]:
                del running[digest]
                bar.step()
                if (trouble := job.exception()) is not None:
                    failed[digest] = str(trouble).strip().splitlines()[-1]
            time.sleep(POLL_S)
    if failed:
        reasons = "; ".join(f"{digest}: {why}" for digest, why in failed.items())
        raise ValueError(f"{len(failed)} of {len(configs)} searches failed: {reasons}")


def _rows(name: str, searches: Sequence[Search]) -> Iterator[dict[str, Any]]:
    """A row for each structure and round, over the seeds."""
    blocks = dict.fromkeys(found.config.block for found in searches)
    for block in blocks:
        of_block = [found for found in searches if found.config.block == block]
        for index, results in enumerate(zip(*(found.rounds for found in of_block), strict=True)):
            yield {
                "what": name,
                "block": "x".join(map(str, block)),
                "round": index,
                "sparsity": mean(result.sparsity for result in results),
                "accuracy": [result.test_accuracy for result in results],
                "early_stop_step": mean(result.early_stop_step for result in results),
                "controls": {
                    control: [
                        one.test_accuracy for found in of_block if (one := found.control(control, index))
                    ]
                    for control in of_block[0].controls
                },
            }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The one table of a sweep: accuracies in %, over seeds, with their standard deviation."""
    controls = list(dict.fromkeys(control for row in rows for control in row["controls"]))
    head = ["what", "block", "round", "sparsity", "accuracy", "early stop", *controls]
    body = [
        line(
            [
                row["what"],
                row["block"],
                str(row["round"]),
                f"{100 * row['sparsity']:.1f} %",
                _spread(row["accuracy"]),
                f"{row['early_stop_step']:.0f}",
                *(_spread(row["controls"].get(control, ())) for control in controls),
            ]
        )
        for row in rows
    ]
    return "\n".join([line(head), f"|{'---|' * len(head)}", *body])


def _spread(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return ""
    about = f" ± {100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * mean(accuracies):.2f}{about}"
