"""A trace on paper: as a table for a terminal, Markdown, CSV, JSON, HTML, an SVG picture or a Mermaid chart."""

import csv
import dataclasses
import io
import itertools
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from ..writing.text import display_width, fitted, shape_text, wrapped
from .rows import Row, Rows

COLOURS = {"embed": 36, "attention": 34, "mlp": 35, "norms and sums": 90, "head": 32}
FILLS = {"embed": "#d6ecf3", "attention": "#d9e2f7", "mlp": "#ecdcf2", "norms and sums": "#ececec", "head": "#dcefdc"}
FACTS = "MACs count the matrix products; 1 MAC = 2 FLOPs. Rows marked xN show one of N identical blocks."


@dataclasses.dataclass(frozen=True)
class Line:
    """One printed line: a row, or several summed up; `times` identical blocks folded into it."""

    name: str
    operation: str
    output: str  # "B H N K = 1 12 197 64"
    times: int  # 0: not folded
    part: str
    parameters: int
    macs: int
    read: int
    written: int
    inputs: str = ""
    weights: str = ""
    dtype: str = ""
    row: Row | None = None

    @property
    def label(self) -> str:
        return f"{self.name}  x{self.times}" if self.times else self.name


def line_of(row: Row, times: int = 0) -> Line:
    name = f"blocks.*.{row.name.split('.', 2)[2]}" if times else row.name
    return Line(
        name=name,
        operation=row.operation,
        output=f"{row.dims} = {shape_text(row.shape)}",
        times=times,
        part=row.part,
        parameters=row.parameters,
        macs=row.macs,
        read=row.read,
        written=row.written,
        inputs=", ".join(shape_text(t.shape) for t in row.inputs),
        weights=", ".join(shape_text(t.shape) for t in row.weights),
        dtype=row.dtype,
        row=row,
    )


def lines(trace: Sequence[Row], depth: str = "op", fold: bool = True) -> list[Line]:
    """The rows as lines: one a step ("op"), one a block ("block"), or one a part of the model ("model")."""
    groups = [list(g) for _, g in itertools.groupby(trace, key=lambda row: row.block)]
    blocks = [group for group in groups if group[0].block is not None]
    fold = (fold or depth == "model") and all(cost(block) == cost(blocks[0]) for block in blocks)
    result: list[Line] = []
    for group in groups:
        times = 0
        if group[0].block is not None and fold:
            if group is not blocks[0]:
                continue
            times = len(blocks)
        if depth == "op":
            result += [line_of(row, times) for row in group]
        elif group[0].block is not None:
            name = "blocks.*" if times else f"blocks.{group[0].block}"
            result.append(summed("encoder" if depth == "model" else name, group, times))
        else:
            parts = itertools.groupby(group, key=lambda row: row.name.split(".")[0])
            result += [summed(name, list(rows), 0) for name, rows in parts]
    return result


def cost(rows: Sequence[Row]) -> list[Any]:
    """What makes two blocks the same: everything but the names."""
    return [
        (r.operation, r.shape, r.parameters, r.macs, r.read, r.written, r.values and tuple(r.values.values())) for r in rows
    ]


def summed(name: str, rows: Sequence[Row], times: int) -> Line:
    last = line_of(rows[-1])
    return Line(
        name=name,
        operation=f"{len(rows)} steps" if len(rows) > 1 else last.operation,
        output=last.output,
        times=times,
        part=rows[0].part if len(rows) == 1 or rows[0].block is None else "attention",
        parameters=sum(row.parameters for row in rows),
        macs=sum(row.macs for row in rows),
        read=sum(row.read for row in rows),
        written=sum(row.written for row in rows),
        dtype=last.dtype,
    )


# Columns: heading, its text for a line, whether it is a number. First those that are dropped last.
COLUMNS: dict[str, tuple[str, Callable[[Line], str], bool]] = {
    "name": ("step", lambda line: line.label, False),
    "output": ("output", lambda line: line.output, False),
    "macs": ("MACs", lambda line: f"{line.macs:,}", True),
    "parameters": ("parameters", lambda line: f"{line.parameters:,}", True),
    "operation": ("operation", lambda line: line.operation, False),
    "weights": ("weights", lambda line: line.weights, False),
    "dtype": ("dtype", lambda line: line.dtype, False),
    "inputs": ("input", lambda line: line.inputs, False),
    "read": ("bytes read", lambda line: f"{line.read:,}", True),
    "written": ("written", lambda line: f"{line.written:,}", True),
}
ORDER = ("name", "operation", "inputs", "weights", "output", "dtype", "parameters", "macs", "read", "written")
VALUES = ("min", "max", "mean", "std", "nan", "inf")


def value_text(line: Line, key: str) -> str:
    values = line.row.values if line.row else None
    if values is None:
        return ""
    return f"{values[key]:,}" if key in ("nan", "inf") else f"{values[key]:.4g}"


def columns_of(rows: Sequence[Line]) -> dict[str, tuple[str, Callable[[Line], str], bool]]:
    """COLUMNS, and where a real run is at hand, its values, which then matter more than the cost."""
    if not any(line.row and line.row.values for line in rows):
        return COLUMNS
    values = {key: (key, lambda line, key=key: value_text(line, key), True) for key in VALUES}
    return {key: COLUMNS[key] for key in ("name", "output")} | values | COLUMNS


def table(trace: Rows, width: int | None = None, depth: str = "op", fold: bool = True, colour: bool = False) -> str:
    """A table that fits `width` columns: what does not fit is left out, the least important first."""
    width = width or shutil.get_terminal_size().columns
    rows = lines(trace, depth, fold)
    columns = columns_of(rows)
    cells = {key: (heading, [text(line) for line in rows], number) for key, (heading, text, number) in columns.items()}
    head, *body = fitted(cells, (*ORDER[:6], *VALUES, *ORDER[6:]), width, optional=VALUES)
    if colour:
        head = f"\x1b[1m{head}\x1b[0m"
        body = [f"\x1b[{COLOURS[line.part]}m{text}\x1b[0m" for line, text in zip(rows, body, strict=True)]
    return "\n".join([head, *body, "", *summary(trace, width)])


def summary(trace: Rows, width: int = 100) -> list[str]:
    """Totals, shares and conventions, as lines."""
    if not len(trace):
        return []
    total = max(trace.parameters, 1), max(trace.macs, 1)
    said = [
        f"parameters {trace.parameters:,}",
        f"MACs {trace.macs:,} ({trace.macs / 1e9:.3f} G), FLOPs {trace.flops:,}",
        f"bytes read {trace.read:,}, written {trace.written:,}; peak activations {trace.peak_memory:,} ({trace.dtype})",
    ]
    shares = [
        f"{part} {100 * p / total[0]:.1f} % / {100 * m / total[1]:.1f} %" for part, (p, m) in trace.shares().items() if p or m
    ]
    said += [f"share of parameters / MACs: {', '.join(shares)}", FACTS]
    return [line for text in said for line in textwrap.wrap(text, width, subsequent_indent="  ")]


def explained(trace: Rows, width: int | None = None, fold: bool = True, language: str = "en", colour: bool = False) -> str:
    """Every step with its formula, its place in the paper, and why; read in order, it is the paper's section 3.1."""
    width = width or shutil.get_terminal_size().columns
    said = []
    for line in lines(trace, "op", fold):
        row = line.row
        assert row is not None
        for head in wrapped(f"{line.label}  [{row.operation}]  {line.output}", width, indent=""):
            said.append(f"\x1b[1;{COLOURS[line.part]}m{head}\x1b[0m" if colour else head)
        said += wrapped(row.formula, width)
        said += wrapped(f"{row.paper}. {row.why}" if language == "en" else f"{row.paper}。{row.why_zh}", width)
    return "\n".join([*said, "", *summary(trace, width)])


def markdown(trace: Rows, depth: str = "op", fold: bool = True) -> str:
    rows = lines(trace, depth, fold)
    columns = columns_of(rows)
    shown = [key for key in (*ORDER[:6], *VALUES, *ORDER[6:]) if key in columns]
    out = ["| " + " | ".join(columns[key][0] for key in shown) + " |"]
    out.append("|" + "|".join("---:" if columns[key][2] else "---" for key in shown) + "|")
    out += ["| " + " | ".join(columns[key][1](line).replace("*", r"\*") for key in shown) + " |" for line in rows]
    return "\n".join([*out, "", *(f"- {text}" for text in summary(trace, 10_000))])


def html(trace: Rows, depth: str = "op", fold: bool = True) -> str:
    """For a notebook: a table with the parts in colour."""

    def cell(text: str, number: bool) -> str:
        return f'<td style="text-align:{"right" if number else "left"};white-space:nowrap">{escape(text)}</td>'

    rows = lines(trace, depth, fold)
    columns = columns_of(rows)
    shown = [key for key in (*ORDER[:6], *VALUES, *ORDER[6:]) if key in columns]
    head = "".join(f"<th>{escape(columns[key][0])}</th>" for key in shown)
    body = "".join(
        f'<tr style="background:{FILLS[line.part]};color:#000">'
        + "".join(cell(columns[key][1](line), columns[key][2]) for key in shown)
        + "</tr>"
        for line in rows
    )
    notes = "<br>".join(map(escape, summary(trace, 10_000)))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{notes}</p>"


def flat(row: Row) -> dict[str, Any]:
    """A row as plain data."""
    plain = dataclasses.asdict(row)
    plain["part"] = row.part
    if row.values is None:
        del plain["values"]
    return plain


def as_json(trace: Rows) -> str:
    """Everything, unfolded."""
    totals = {
        "parameters": trace.parameters,
        "macs": trace.macs,
        "flops": trace.flops,
        "read": trace.read,
        "written": trace.written,
        "peak_memory": trace.peak_memory,
    }
    shares = {part: {"parameters": p, "macs": m} for part, (p, m) in trace.shares().items()}
    config = trace.config.to_dict()
    content = {"config": config, "letters": trace.sizes, "dtype": trace.dtype, "totals": totals, "shares": shares}
    # NaN is no JSON; a real run's statistics may hold one.
    rows = [flat(row) for row in trace]
    for row in rows:
        if "values" in row:
            row["values"] = {k: (v if v == v else None) for k, v in row["values"].items()}
    return json.dumps(content | {"convention": FACTS, "rows": rows}, indent=1, ensure_ascii=False)


def as_csv(trace: Rows) -> str:
    """One record a step, unfolded; shapes with x between the sizes."""
    out = io.StringIO()
    values = VALUES if any(row.values for row in trace) else ()
    names = (
        "step",
        "operation",
        "inputs",
        "weights",
        "letters",
        "shape",
        "dtype",
        "parameters",
        "macs",
        "bytes_read",
        "bytes_written",
    )
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *values])
    for row in trace:
        inputs, weights = (
            "; ".join(f"{t.name} {'x'.join(map(str, t.shape))}" for t in tensors) for tensors in (row.inputs, row.weights)
        )
        shape = "x".join(map(str, row.shape))
        record = [
            row.name,
            row.operation,
            inputs,
            weights,
            row.dims,
            shape,
            row.dtype,
            row.parameters,
            row.macs,
            row.read,
            row.written,
        ]
        writer.writerow([*record, *((row.values or {}).get(key, "") for key in values)])
    return out.getvalue().rstrip("\n")


def diff(a: Rows, b: Rows, names: tuple[str, str], depth: str = "op", fold: bool = True) -> list[dict[str, Any]]:
    """Two traces side by side: one entry a line that either has, in order, with `differs`."""
    left, right = ({line.name: line for line in lines(t, depth, fold)} for t in (a, b))
    order = list(left)
    for name in right:  # steps only the second has stand after the one they follow there
        if name not in left:
            before = list(right)[: list(right).index(name)]
            place = max((order.index(n) + 1 for n in before if n in order), default=0)
            order.insert(place, name)
    entries = []
    for name in order:
        one, two = left.get(name), right.get(name)
        entry: dict[str, Any] = {"step": name}
        for model, line in zip(names, (one, two), strict=True):
            entry[model] = line and {
                "times": line.times,
                "operation": line.operation,
                "output": line.output,
                "parameters": line.parameters,
                "macs": line.macs,
            }
        entry["differs"] = entry[names[0]] != entry[names[1]]
        entries.append(entry)
    return entries


def config_diff(a: Rows, b: Rows) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs differ."""
    one, two = dataclasses.asdict(a.config), dataclasses.asdict(b.config)
    return {key: (one[key], two[key]) for key in one if one[key] != two[key]}


def diff_table(
    a: Rows,
    b: Rows,
    names: tuple[str, str],
    depth: str = "op",
    fold: bool = True,
    colour: bool = False,
    width: int = 10_000,
) -> str:
    """The diff as a table; `*` marks the rows that differ. Too narrow a terminal loses parameters, then MACs, then ends."""
    entries = diff(a, b, names, depth, fold)

    def said(line: dict[str, Any] | None, key: str, other: dict[str, Any] | None) -> str:
        if line is None:
            return "-"
        text = f"{line[key]:,}" if isinstance(line[key], int) else str(line[key])
        if key == "output":
            text += f" x{line['times']}" if line["times"] else ""
            text += f" [{line['operation']}]" if other and other["operation"] != line["operation"] else ""
        return text

    rows = [["", "step", *names, "MACs", "", "parameters", ""]]
    for entry in entries:
        one, two = entry[names[0]], entry[names[1]]
        pairs = [(said(one, key, two), said(two, key, one)) for key in ("output", "macs", "parameters")]
        rows.append(["*" if entry["differs"] else "", entry["step"], *itertools.chain(*pairs)])
    rows.append(["", "total", "", "", f"{a.macs:,}", f"{b.macs:,}", f"{a.parameters:,}", f"{b.parameters:,}"])
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    shown = next((n for n in (8, 6) if sum(widths[:n]) + 2 * (n - 1) <= width), 4)

    def padded(row: list[str]) -> str:
        cells = (c.rjust(w) if n > 3 else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)) if n < shown)
        return "  ".join(cells)[:width].rstrip()

    printed = [f"\x1b[33m{padded(row)}\x1b[0m" if colour and row[0] == "*" else padded(row) for row in rows]
    differing = sum(entry["differs"] for entry in entries)
    notes = [f"config: {key} {one} | {two}" for key, (one, two) in config_diff(a, b).items()]
    notes += [f"{differing} of {len(entries)} rows differ (marked *)", FACTS]
    return "\n".join([*printed, "", *(line for text in notes for line in textwrap.wrap(text, width, subsequent_indent="  "))])


def edges(rows: Sequence[Line]) -> list[tuple[str, str]]:
    """(from, to) for everything a line reads that is "pixels" or another of the lines."""
    names = {line.name for line in rows} | {"pixels"}
    found = []
    for line in rows:
        for tensor in line.row.inputs if line.row else ():
            for source in (tensor.name, re.sub(r"^blocks\.\d+\.", "blocks.*.", tensor.name)):
                if source in names:
                    found.append((source, line.name))
                    break
    return found


def mermaid(trace: Rows) -> str:
    """A Mermaid flowchart of what reads what, identical blocks folded."""
    rows = lines(trace)
    numbers = {line.name: f"s{n}" for n, line in enumerate(rows)} | {"pixels": "pixels"}
    out = ["flowchart TD", f'  pixels["pixels<br/>{pixel_shape(trace)}"]']
    block = None
    for line in rows:
        before, block = block, line.name.rsplit(".", 1)[0].split(".")[:2] if line.name.startswith("blocks.") else None
        if before != block and before:
            out.append("  end")
        if before != block and block:
            out.append(f'  subgraph {block[0]}{block[1].replace("*", "")}["encoder block x{line.times or 1}"]')
        out.append(f'  {numbers[line.name]}["{line.name.replace("blocks.*.", "")}<br/>{line.operation}<br/>{line.output}"]')
    out += ["  end"] if block else []
    return "\n".join([*out, *(f"  {numbers[a]} --> {numbers[b]}" for a, b in edges(rows))])


def pixel_shape(trace: Rows) -> str:
    return "B C Y X = " + shape_text(trace.sizes[letter] for letter in "BCYX")


BOX_WIDTH, BOX_HEIGHT, BOX_GAP, PANEL = 300, 46, 14, 370  # of the SVG, pixels


def svg(trace: Rows) -> str:
    """A picture for a slide: embedding, one encoder block (its two halves) and the head, left to right."""
    rows = lines(trace)
    block = [line for line in rows if line.name.startswith("blocks.")]
    half = next((n + 1 for n, line in enumerate(block) if line.name.endswith("residual1")), 0)
    pixels = Line("pixels", "", pixel_shape(trace), 0, "embed", 0, 0, 0, 0)
    before = [pixels, *(line for line in rows if line.name.startswith("embed"))]
    after = [line for line in rows if line not in before and line not in block]
    panels = {"embedding": before, "attention": block[:half], "MLP": block[half:], "representation": after}
    width, height = 4 * PANEL + 30, 180 + max(map(len, panels.values())) * (BOX_HEIGHT + BOX_GAP)
    times = block[0].times if block else 0
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>',
        f'<rect x="{PANEL + 10}" y="62" width="{2 * PANEL - 10}" height="{height - 132}" rx="14" fill="none" stroke="#888" '
        'stroke-width="2" stroke-dasharray="7 5"/>',
        svg_text(2 * PANEL + 5, 50, 22, f"encoder block \u00d7 {times}" if times else "encoder blocks", anchor="middle"),
    ]
    places: dict[str, tuple[float, float]] = {}
    for column, (title, panel) in enumerate(panels.items()):
        x, y = 30 + column * PANEL, 112
        out.append(svg_text(x, y - 16, 17, title, bold=True))
        for n, line in enumerate(panel):
            places[line.name] = x, y + n * (BOX_HEIGHT + BOX_GAP)
            out += svg_box(*places[line.name], line)
    out += [svg_arrow(places[a], places[b]) for a, b in edges(rows)]
    said = f"{trace.parameters:,} parameters, {trace.macs:,} MACs ({trace.flops:,} FLOPs)"
    return "\n".join([*out, svg_text(30, height - 24, 17, said), "</svg>"])


def svg_arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From box to box: down to the next one, round the right side to one further below, across to another panel."""
    (x1, y1), (x2, y2), middle = start, end, BOX_HEIGHT / 2
    if x1 != x2:
        path = f"M{x1 + BOX_WIDTH},{y1 + middle} H{x2 - 18} V{y2 + middle} H{x2 - 2}"
    elif y2 - y1 == BOX_HEIGHT + BOX_GAP:
        path = f"M{x1 + BOX_WIDTH / 2},{y1 + BOX_HEIGHT} V{y2 - 2}"
    else:
        side = x1 + BOX_WIDTH
        top, bottom = y1 + middle + 6, y2 + middle - 8
        path = f"M{side},{top} C{side + 24},{top} {side + 24},{bottom} {side + 2},{bottom}"
    return f'<path d="{path}" fill="none" stroke="#555" stroke-width="1.5" marker-end="url(#tip)"/>'


def svg_box(x: float, y: float, line: Line) -> list[str]:
    """One step: its name and operation, below them its shape and cost."""
    name = line.name.split(".", 2)[-1] if line.name.startswith("blocks.") else line.name
    right = x + BOX_WIDTH - 10
    return [
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7" fill="{FILLS[line.part]}" stroke="#777"/>',
        svg_text(x + 10, y + 19, 14, name, bold=True),
        svg_text(right, y + 19, 12, line.operation, anchor="end"),
        svg_text(x + 10, y + 37, 12, line.output),
        svg_text(right, y + 37, 11, f"{line.macs / 1e6:,.1f} M MAC" if line.macs else "", anchor="end"),
    ]


def svg_text(x: float, y: float, size: int, text: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="#222"{weight}>{escape(text)}</text>'
