"""What ``foredraft train evaluate`` found: in lines, as Markdown, and as plots where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["lines", "markdown", "write_report"]

Figures = Mapping[str, Any]

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
"""Of the palette of Okabe and Ito, which people with any kind of colour vision tell apart."""
_COLOURS = (_BLUE, _ORANGE, _GREEN, "#CC79A7", "#56B4E9", "#E69F00")
_MARKS = "osD^vP"


def lines(figures: Figures) -> Iterator[str]:
    """A few lines for the terminal."""
    for kind in ("greedy", "sampled"):
        per_round = {int(drafted): each for drafted, each in figures["tokens_per_round"][kind].items()}
        said = ", ".join(f"{drafted}: {per_round[drafted]:.2f}" for drafted in (1, 2, 4, 8, 12))
        count = figures["tokens"][kind]
        yield f"{kind}: {figures[f'alpha_{kind}']:.3f} of {count} tokens foreseen; tokens per round by draft length {said}"
    yield (
        f"a drafted token costs {figures['draft_cost_ratio']:.2f} of a decoded one "
        f"({figures['draft_ms']:.1f} ms and {figures['target_ms']:.1f} ms)"
    )
    for each in figures["exits"]:
        precision = "–" if each["precision"] is None else f"{each['precision']:.1%}"
        yield (
            f"exit {each['layer']}: {each['right']:.1%} of rounds hinted right; the surest {each['coverage']:.0%} of the "
            f"hints are right in {precision}; calibration error {each['ece']:.3f}; costs {each['cost']:.1%} of a pass"
        )


def markdown(figures: Figures) -> str:
    """The whole report."""
    parts = [
        f"# {figures['target']}: draft `{figures['draft']}`",
        "",
        f"{figures['prompts']} prompts, target in {figures['dtype']}.",
        "",
        "| | greedy | T = 0.8, top-p 0.95 |",
        "|---|---|---|",
        f"| tokens foreseen | {figures['alpha_greedy']:.1%} of {figures['tokens']['greedy']} "
        f"| {figures['alpha_sampled']:.1%} of {figures['tokens']['sampled']} |",
    ]
    categories = sorted({*figures["by_category"]["greedy"], *figures["by_category"]["sampled"]})
    for name in categories:
        shares = (figures["by_category"][kind].get(name) for kind in ("greedy", "sampled"))
        parts.append(f"| {name} | " + " | ".join("–" if share is None else f"{share:.1%}" for share in shares) + " |")
    parts += [
        "",
        f"A drafted token takes {figures['draft_ms']:.1f} ms, a decoded one {figures['target_ms']:.1f} ms "
        f"({figures['draft_cost_ratio']:.2f}).",
        "",
        "| drafted tokens | foreseen, greedy | sampled | tokens a round, greedy | sampled |",
        "|---|---|---|---|---|",
    ]
    for drafted in range(1, len(figures["by_position"]["greedy"]) + 1):
        cells = [figures["by_position"][kind][drafted - 1] for kind in ("greedy", "sampled")]
        foreseen = " | ".join("–" if cell is None else f"{cell:.1%}" for cell in cells)
        per_round = " | ".join(
            f"{_of(figures['tokens_per_round'][kind], drafted):.2f}" for kind in ("greedy", "sampled")
        )
        parts.append(f"| {drafted} | {foreseen} | {per_round} |")
    if figures["exits"]:
        parts += [
            "",
            f"Hints, in rounds of {figures['drafted']} drafted tokens:",
            "",
            "| exit | right | greedy | sampled | right among the surest | share of rounds | calibration error | cost |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for each in figures["exits"]:
            curve = figures["hint_curves"][str(each["layer"])]
            precision = "–" if each["precision"] is None else f"{each['precision']:.1%}"
            parts.append(
                f"| {each['layer']} | {each['right']:.1%} | {curve['right_greedy']:.1%} | {curve['right_sampled']:.1%} "
                f"| {precision} | {each['coverage']:.0%} | {each['ece']:.3f} | {each['cost']:.1%} |"
            )
    return "\n".join(parts) + "\n"


def _of(by_length: Mapping[Any, float], drafted: int) -> float:
    """Keys are numbers, or strings once they were JSON."""
    return by_length[drafted] if drafted in by_length else by_length[str(drafted)]


def write_report(figures: Figures, folder: Path) -> Path:
    """``report.md`` in ``folder``, with plots beside it where matplotlib is installed; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(figures)
    try:
        names = _plots(figures, folder)
    except ImportError:
        text += "\nPlots need matplotlib: `pip install 'foredraft[bench]'`.\n"
    else:
        text += "".join(f"\n![{name.removesuffix('.png')}]({name})\n" for name in names)
    path = folder / "report.md"
    path.write_text(text, encoding="utf-8")
    return path


def _plots(figures: Figures, folder: Path) -> list[str]:
    from matplotlib.figure import Figure

    names = ["acceptance.png"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, colour, mark in (("greedy", _BLUE, "o"), ("sampled", _ORANGE, "s")):
        shares = figures["by_position"][kind]
        at = [index + 1 for index, share in enumerate(shares) if share is not None]
        left.plot(at, [share for share in shares if share is not None], color=colour, marker=mark, label=kind)
        lengths = range(1, len(shares) + 1)
        right.plot(
            lengths, [_of(figures["tokens_per_round"][kind], each) for each in lengths], color=colour, marker=mark
        )
    left.set(xlabel="token of the round", ylabel="foreseen, where those before were", ylim=(0, 1.02))
    right.set(xlabel="drafted tokens", ylabel="tokens a round", ylim=(0, None))
    left.legend(frameon=False)
    _finish(figure, (left, right), folder / names[0])
    if figures["exits"]:
        names.append("hints.png")
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        right.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
        for index, each in enumerate(figures["exits"]):
            curve = figures["hint_curves"][str(each["layer"])]
            style = {"color": _COLOURS[index % 6], "marker": _MARKS[index % 6], "label": f"exit {each['layer']}"}
            points = [
                (coverage, precision)
                for coverage, precision in zip(curve["coverage"], curve["precision"], strict=True)
                if precision is not None
            ]
            points.append((1.0, each["right"]))
            left.plot(*zip(*sorted(points), strict=True), **style)
            said = curve["reliability"]
            right.plot([point["said"] for point in said], [point["true"] for point in said], **style)
        left.set(
            xlabel="share of the rounds that are hinted", ylabel="hints that are right", xlim=(0, 1.02), ylim=(0, 1.02)
        )
        right.set(xlabel="confidence", ylabel="came true", xlim=(0, 1.02), ylim=(0, 1.02))
        left.legend(frameon=False)
        _finish(figure, (left, right), folder / names[1])
    return names


def _finish(figure: Any, axes: tuple[Any, ...], path: Path) -> None:
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
    figure.savefig(path, dpi=140)
