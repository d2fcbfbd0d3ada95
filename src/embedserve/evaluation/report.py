"""Scores on disk, and as tables and pictures a person can read; two runs side by side."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

from embedserve.errors import EmbedserveError
from embedserve.evaluation.runner import Score
from embedserve.files.places import write_whole

GROUPS = {
    "ret": "retrieval",
    "xl": "cross-lingual",
    "sts": "similarity",
    "cls": "classification",
    "clu": "clustering",
    "instr": "instructions",
    "kw": "exact words",
    "long": "long text",
}
"""The first word of task names -> what reports call the group; other words stand for themselves."""


@dataclass(slots=True)
class Run:
    """What one model scored.

    Attributes:
        model: name and settings, for the reader.
        tasks: task -> system -> score.
        groups: task -> group.
        languages: task -> subset -> language.
    """

    model: str
    tasks: dict[str, dict[str, Score]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    languages: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """Every system that scored, narrow dense vectors first."""
        names = {system for scores in self.tasks.values() for system in scores}

        def place(name: str) -> tuple[int, int]:
            kind, _, dimension = name.partition("@")
            return (("dense", "sparse", "dense&sparse", "bm25").index(kind), int(dimension or 0))

        return sorted(names, key=place)

    def group_means(self, system: str) -> dict[str, float]:
        """Group -> mean over its tasks; groups in which the system scored every task."""
        found: dict[str, list[float | None]] = defaultdict(list)
        for task, scores in self.tasks.items():
            found[self.groups[task]].append(scores[system].score if system in scores else None)
        return {
            group: fmean(value for value in values if value is not None)
            for group, values in sorted(found.items(), key=lambda item: _order(item[0]))
            if None not in values
        }

    def language_means(self, system: str, groups: Sequence[str] | None = None) -> dict[str, float]:
        """Language -> mean over the subsets in it, of all groups or of these."""
        found: dict[str, list[float]] = defaultdict(list)
        for task, scores in self.tasks.items():
            if system in scores and (groups is None or self.groups[task] in groups):
                for subset, value in scores[system].subsets.items():
                    found[self.languages[task].get(subset, subset)].append(value)
        return {language: fmean(values) for language, values in sorted(found.items())}

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """A saved run.

        Raises:
            EmbedserveError: missing, or not a run.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            tasks = {
                task: {system: Score(**score) for system, score in scores.items()}
                for task, scores in stored.pop("tasks").items()
            }
            return cls(tasks=tasks, **stored)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EmbedserveError(f"cannot read the run {path}: {error}") from error


def render_markdown(run: Run, baseline: Run | None = None) -> str:
    """Tables by group, by task and by language; with a baseline, each cell with its difference."""
    parts = [f"# {run.model}\n"]
    if baseline:
        parts.append(f"In brackets: difference to {baseline.model}.\n")
    groups = sorted(set(run.groups.values()), key=_order)
    parts.append("## By group\n")
    header = ["system", *(GROUPS.get(group, group) for group in groups)]
    parts.append(_table(header, [[s, *_cells(groups, s, run, baseline, _group_mean)] for s in run.systems]))
    parts.append("## By task\n")
    tasks = sorted(run.tasks, key=lambda task: (_order(run.groups[task]), task))
    rows = [
        [task, *(_cells([task], system, run, baseline, _task_score)[0] for system in run.systems)]
        for task in tasks
    ]
    parts.append(_table(["task", *run.systems], rows))
    parts.append("## By language\n\nMean over every subset whose questions are in the language.\n")
    languages = sorted({name for system in run.systems for name in run.language_means(system)})
    rows = [
        [name, *(_cells([name], system, run, baseline, _language_mean)[0] for system in run.systems)]
        for name in languages
    ]
    parts.append(_table(["language", *run.systems], rows))
    return "\n".join(parts)


def draw(run: Run, path: Path, baseline: Run | None = None) -> None:
    """A picture of group means over the dimension; the baseline dashed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EmbedserveError("the picture needs matplotlib: run `pip install 'embedserve[eval]'`") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for one, line in ((run, "-o"), (baseline, "--")):
        if one is None:
            continue
        dense = [system for system in one.systems if system.startswith("dense@")]
        means = {system: one.group_means(system) for system in dense}
        for i, group in enumerate(sorted(set(one.groups.values()), key=_order)):
            points = [(int(s.partition("@")[2]), means[s][group]) for s in dense if group in means[s]]
            label = GROUPS.get(group, group) if one is run else None
            axes.plot(*zip(*points, strict=True), line, color=f"C{i}", label=label, markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("dimension")
    axes.set_ylabel("score")
    axes.set_title(run.model + (f"   (dashed: {baseline.model})" if baseline else ""))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=150)


def _group_mean(run: Run, name: str, system: str) -> float | None:
    return run.group_means(system).get(name)


def _task_score(run: Run, name: str, system: str) -> float | None:
    score = run.tasks.get(name, {}).get(system)
    return score.score if score else None


def _language_mean(run: Run, name: str, system: str) -> float | None:
    return run.language_means(system).get(name)


def _cells(
    names: Sequence[str],
    system: str,
    run: Run,
    baseline: Run | None,
    read: Callable[[Run, str, str], float | None],
) -> list[str]:
    cells = []
    for name in names:
        value = read(run, name, system)
        before = read(baseline, name, system) if baseline and name and value is not None else None
        cell = "" if value is None else f"{value:.1f}"
        cells.append(cell if value is None or before is None else f"{cell} ({value - before:+.1f})")
    return cells


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    lines.insert(1, "|" + " --- |" * len(header))
    return "\n".join(lines) + "\n"


def _order(group: str) -> tuple[int, str]:
    known = list(GROUPS)
    return (known.index(group) if group in known else len(known), group)
