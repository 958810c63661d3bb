"""The report as one page of HTML: pictures inside, nothing fetched, nothing that runs."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from foredraft_shared.errors import UsageError

from . import programs
from .document import BASELINE, CellResult, Report
from .figures import Figures, Spread
from .gallery import gallery
from .words import (
    conditions_told,
    cut_told,
    draft_told,
    lossless_told,
    number,
    own_skipped,
    planner_told,
    share,
    spread_told,
)

__all__ = ["as_page", "write_page"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; line-height: 1.25; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
h3 { margin-bottom: .3em; } figure { margin: 1em 0; } figcaption, .note { color: #444; font-size: .92em; }
img { width: 100%; height: auto; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; margin-bottom: 1em; font-size: .86em; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .55em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; } th:first-child, td:first-child { text-align: left; }
.best { font-weight: bold; } .wrong { background: #fbe3d6; padding: .6em 1em; } code { font-size: .9em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1em 1em; } dt { color: #444; } dd { margin: 0; }
"""

_COLUMNS = (
    "mode", "ms a token", "speed-up", "first token, ms", "gap p50, ms", "p95", "p99", "max", "fluidity", "fluid tokens/s",
    "accepted a round", "drafting hidden", "guesses right", "passes a token", "cloud ms a token", "bytes up", "bytes down",
)  # fmt: skip
_PACE = 10
"""So many columns tell how fast tokens come; the others, what rounds did and what they cost, are a table of their own."""

_DEFINITIONS = (
    ("ms a token", "From the first token's instant to the last one's, by the tokens after the first; all prompts of a run "
     "together. Median of the runs, lowest and highest in brackets."),
    ("speed-up", "How many times faster than the cloud alone, which streams and so pays the round trip once a text, on the "
     "same engine, in the same run. Never over one remote call a token."),
    ("first token", "From handing over the prompt to its first token, the reading of the prompt included."),
    ("gap", "Time between a token and the one before it, zeros within a commit included."),
    ("fluidity", "Etalon's index: the share of deadlines met, 100 ms for the first token and 50 ms for each other, where an "
     "early token banks its slack. Fluid tokens/s: the fastest pace at which 99 % of texts miss no more than a tenth."),
    ("accepted a round", "Confirmed drafted tokens for each verdict on a draft; a round commits one token more."),
    ("drafting hidden", "Share of the drafting that took place during another round's flight, and cost no time."),
    ("guesses right", "Share of the verdicts that the device had foreseen while it drafted on."),
    ("passes, cloud ms a token", "Passes of the large model and what they took, for each token: the cost of the cloud."),
    ("bytes", "A token, prompt and ZeroMQ frames included; TCP and IP headers not."),
)  # fmt: skip


def write_page(path: Path, report: Report) -> None:
    """Write the page.

    Raises:
        UsageError: it cannot be written.
    """
    text = as_page(report)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name a folder you may write to.") from None


def as_page(report: Report) -> str:
    """The page as text."""
    title = f"{report.set_up.target}: edge and cloud over {len({cell.network for cell in report.cells})} networks"
    body = [
        f"<h1>{escape(title)}</h1>",
        _summary(report),
        _pictures(report),
        "<h2>What the planner chose</h2>",
        _planner(report),
        "<h2>Figures</h2>",
        *(_cell(report, cell) for cell in report.cells),
        *_programs(report),
        "<h2>What the figures mean</h2>",
        "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(told)}</dd>" for name, told in _DEFINITIONS) + "</dl>",
        "<h2>How it was measured</h2>",
        _set_up(report),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


# --- words


def _summary(report: Report) -> str:
    told = []
    if not report.complete:
        told.append(
            f'<p class="wrong">A partial report: the run was stopped after {len(report.cells)} of '
            f"{report.planned_cells} cells were begun.</p>"
        )
    if cut := cut_told(report):
        told.append(f'<p class="wrong">{cut[0].upper()}{cut[1:]}.</p>')
    told += [
        f'<p class="wrong">Modes that must write the same did not: {escape(each.described)}.</p>'
        for each in report.differences
    ]
    labels = lossless_told(report)
    if labels and not report.differences:
        told.append(f"<p>{escape(labels)} wrote <strong>identical tokens</strong> in every run.</p>")
    if draft := draft_told(report.set_up):
        told.append(f'<p class="note">{escape(draft)}</p>')
    rows = []
    for cell in report.cells:
        speed_ups = {
            name: ratio for name, ratio in cell.speed_ups().items() if name != BASELINE and _counts(report, name)
        }
        alone = cell.figures().get(BASELINE)
        if not speed_ups or alone is None:
            continue
        best = max(speed_ups, key=lambda name: speed_ups[name].median)
        planner = f"{speed_ups['auto'].median:.2f}×" if "auto" in speed_ups else "–"
        rows.append(
            (cell.title, cell.described, spread_told(alone.ms_per_token, 1), planner,
             f"{speed_ups[best].median:.2f}× ({report.label(best)})")
        )  # fmt: skip
    heads = ("cell", "network", "cloud alone, ms a token", "planner", "fastest lossless mode")
    return "\n".join(told) + _html_table(heads, rows)


def _counts(report: Report, name: str) -> bool:
    return any(mode.name == name and mode.lossless for mode in report.modes)


def _planner(report: Report) -> str:
    rows = []
    for cell in report.cells:
        if "auto" in cell.figures():
            ratio = cell.speed_ups().get("auto")
            rows.append((cell.title, spread_told(ratio, 2), planner_told(cell)))
    if not rows:
        return "<p>The planner was not asked.</p>"
    return _html_table(("cell", "speed-up", "what and why"), rows, wrap_last=True)


def _cell(report: Report, cell: CellResult) -> str:
    figures, speed_ups = cell.figures(), cell.speed_ups()
    rows = [_row(report.label(name), each, speed_ups.get(name)) for name, each in figures.items()]
    told = [
        f"<h3>{escape(cell.title)}</h3>",
        f'<p class="note">{escape(cell.described)}; {conditions_told(cell)}.</p>',
        _html_table(_COLUMNS[:_PACE], [row[:_PACE] for row in rows]),
        _html_table(_COLUMNS[:1] + _COLUMNS[_PACE:], [row[:1] + row[_PACE:] for row in rows]),
    ]
    notes = [f"{report.label(name)} was left out: {reason}." for name, reason in own_skipped(report, cell)]
    if cell.peak_memory_mib:
        held = ", ".join(f"{name} {value:.0f} MiB" for name, value in cell.peak_memory_mib.items())
        notes.append(f"Peak memory so far: {held}.")
    energy = [
        f"{report.label(name)} {number(each.joules_per_token, 2)} J"
        for name, each in figures.items()
        if each.joules_per_token
    ]
    if energy:
        notes.append(f"Energy a token: {', '.join(energy)}.")
    places = [
        f"{report.label(name)} {', '.join(share(kept / tried) for tried, kept in each.accepted_by_position if tried)}"
        for name, each in figures.items()
        if name in ("waiting", "ahead") and each.accepted_by_position
    ]
    if places:
        notes.append(f"Accepted by place in the draft, of those judged: {'; '.join(places)}.")
    return "\n".join(told) + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _programs(report: Report) -> Iterator[str]:
    if not report.peers:
        return
    yield f"<h2>{escape(programs.HEADING)}</h2>"
    yield f'<p class="note">{escape(programs.NOTE)}</p>'
    yield _html_table(programs.COLUMNS, list(programs.rows(report)))
    for note in programs.notes(report):
        yield f'<p class="note">{escape(note)}</p>'


def _row(label: str, figures: Figures, speed_up: Spread | None) -> tuple[str, ...]:
    return (
        label,
        spread_told(figures.ms_per_token, 1),
        spread_told(speed_up, 2),
        number(figures.ttft_ms.median if figures.ttft_ms else None, 0),
        number(figures.gap_p50_ms, 0),
        number(figures.gap_p95_ms, 0),
        number(figures.gap_p99_ms, 0),
        number(figures.gap_max_ms, 0),
        number(figures.fluidity_index, 2),
        number(figures.fluid_tokens_per_s, 1),
        number(figures.accepted_per_round, 2),
        share(figures.hidden_drafting),
        share(figures.guess_hit_rate),
        number(figures.cloud_passes_per_token, 2),
        number(figures.cloud_ms_per_token, 1),
        number(figures.bytes_up_per_token, 1),
        number(figures.bytes_down_per_token, 1),
    )


def _set_up(report: Report) -> str:
    set_up = report.set_up
    greedy = "greedy" if set_up.temperature == 0 else f"temperature {set_up.temperature:g}, top-p {set_up.top_p:g}"
    told = {
        "command": report.command,
        "when": f"{report.began_utc}, for {report.took_s / 60:.1f} minutes",
        "foredraft": report.foredraft,
        "target": f"{set_up.target} in {set_up.dtype}, on cores {_cores(set_up.cloud_cores)}",
        "draft": f"{set_up.draft}, on cores {_cores(set_up.edge_cores)}",
        "sampling": f"{greedy}, seed {set_up.seed}",
        "exits that hint": set_up.exits or "none",
        "answers": "written past the model's own end" if set_up.past_the_end else "end where the model ends them",
        "warm-up": f"{set_up.warm_up_tokens} tokens in each mode before each cell, thrown away",
        "order": "modes by turns, prompt by prompt, the first of them another each time",
        "power meter": "the device's own" if report.power_meter else "none that can be read: no energy is told",
        **report.machine,
    }
    prompts = "".join(f"<li>{escape(prompt)}</li>" for prompt in set_up.prompts)
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in told.items())
    return f"<dl>{rows}</dl><p>Prompts:</p><ol>{prompts}</ol>"


def _cores(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores)) or "of the system's choice"


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, wrap_last: bool = False) -> str:
    style = ' style="text-align: left; white-space: normal"' if wrap_last else ""
    *before, end = heads
    top = "".join(f"<th>{escape(head)}</th>" for head in before) + f"<th{style}>{escape(end)}</th>"
    lines = []
    for row in rows:
        *first, last = row
        cells = "".join(f"<td>{escape(value)}</td>" for value in first) + f"<td{style}>{escape(last)}</td>"
        lines.append(f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


# --- pictures


def _pictures(report: Report) -> str:
    from .pictures import svg  # here, so that a command which draws nothing does not import matplotlib

    told = []
    for piece in gallery(report):
        heading = f"<h2>{escape(piece.heading)}</h2>"
        if piece.picture is None:
            told.append(f'{heading}<p class="note">{escape(piece.told)}</p>')
            continue
        held = base64.b64encode(svg(piece.picture)).decode("ascii")
        told.append(
            f'{heading}<figure><img src="data:image/svg+xml;base64,{held}" alt="{escape(piece.heading)}">'
            f"<figcaption>{escape(piece.told)}</figcaption></figure>"
        )
    return "\n".join(told)
