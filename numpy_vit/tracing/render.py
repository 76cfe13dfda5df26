"""A trace on paper: as a table for a terminal, Markdown, CSV, JSON, HTML, an SVG picture or a Mermaid chart."""

import csv
import dataclasses
import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

from ..parameters import folded
from ..writing.text import clean, display_width, fitted, paragraphs, shape_text, wrapped
from .rows import Row, Rows, Tensor, total

COLOURS = {"embed": 36, "attention": 34, "mlp": 35, "norms and sums": 90, "head": 32, "merger": 33}
FILLS = {
    "embed": "#d6ecf3",
    "attention": "#d9e2f7",
    "mlp": "#ecdcf2",
    "norms and sums": "#ececec",
    "head": "#dcefdc",
    "merger": "#f6ead6",
}
FACTS = "MACs count the matrix products; 1 MAC = 2 FLOPs. Rows marked xN show one of N identical blocks."


@dataclasses.dataclass(frozen=True)
class Line:
    """One printed line: rows summed up; or one row, whose details are then shown."""

    name: str
    rows: Sequence[Row]
    times: int  # so many identical blocks are folded into it; 0: it is not folded
    row: Row | None = None

    @property
    def label(self) -> str:
        return f"{self.name}  x{self.times}" if self.times else self.name

    @property
    def operation(self) -> str:
        return f"{len(self.rows)} steps" if len(self.rows) > 1 else self.rows[0].operation

    @property
    def output(self) -> str:
        """ "B H N K = 1 12 197 64"."""
        return f"{self.rows[-1].dims} = {shape_text(self.rows[-1].shape)}"

    @property
    def part(self) -> str:
        """One of PARTS, for the colour."""
        return self.rows[0].part if len(self.rows) == 1 or self.rows[0].block is None else "attention"


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
            result += [Line(folded(row.name) if times else row.name, [row], times, row) for row in group]
        elif group[0].block is not None:
            name = "blocks.*" if times else f"blocks.{group[0].block}"
            result.append(Line("encoder" if depth == "model" else name, group, times))
        else:
            parts = itertools.groupby(group, key=lambda row: row.name.split(".")[0])
            result += [Line(name, list(rows), 0) for name, rows in parts]
    return result


def cost(rows: Sequence[Row]) -> list[Any]:
    """What makes two blocks the same: everything but the names."""
    return [
        (r.operation, r.shape, r.parameters, r.macs, r.read, r.written, r.values and tuple(r.values.values())) for r in rows
    ]


Column = tuple[str, Callable[[Line], str], bool]  # heading, its text for a line, whether it is a number


def number(what: str) -> Callable[[Line], str]:
    """The text of a sum over a line's rows."""
    return lambda line: f"{total(line.rows, what):,}"


def shapes(what: str) -> Callable[[Line], str]:
    """The text of the shapes of what a row reads."""
    return lambda line: ", ".join(shape_text(t.shape) for t in getattr(line.row, what, ()))


# First those that are dropped last.
COLUMNS: dict[str, Column] = {
    "name": ("step", lambda line: line.label, False),
    "output": ("output", lambda line: line.output, False),
    "macs": ("MACs", number("macs"), True),
    "parameters": ("parameters", number("parameters"), True),
    "operation": ("operation", lambda line: line.operation, False),
    "weights": ("weights", shapes("weights"), False),
    "dtype": ("dtype", lambda line: line.rows[-1].dtype, False),
    "inputs": ("input", shapes("inputs"), False),
    "read": ("bytes read", number("read"), True),
    "written": ("written", number("written"), True),
}
VALUES = ("min", "max", "mean", "std", "nan", "inf")
ORDER = ("name", "operation", "inputs", "weights", "output", "dtype", *VALUES, "parameters", "macs", "read", "written")


def value_text(line: Line, key: str) -> str:
    values = line.row.values if line.row else None
    if values is None:
        return ""
    return f"{values[key]:,}" if key in ("nan", "inf") else f"{values[key]:.4g}"


def columns_of(rows: Sequence[Line]) -> dict[str, Column]:
    """COLUMNS, and where a real run is at hand, its values, which then matter more than the cost."""
    if not any(line.row and line.row.values for line in rows):
        return COLUMNS
    values = {key: (key, lambda line, key=key: value_text(line, key), True) for key in VALUES}
    return {key: COLUMNS[key] for key in ("name", "output")} | values | COLUMNS


def columns_in_order(rows: Sequence[Line]) -> list[Column]:
    """All columns as they are to stand."""
    columns = columns_of(rows)
    return [columns[key] for key in ORDER if key in columns]


def table(trace: Rows, width: int | None = None, depth: str = "op", fold: bool = True, colour: bool = False) -> str:
    """A table that fits `width` columns: what does not fit is left out, the least important first, and named below."""
    width = width or shutil.get_terminal_size().columns
    rows = lines(trace, depth, fold)
    cells = {key: (heading, [text(line) for line in rows], right) for key, (heading, text, right) in columns_of(rows).items()}
    left_out: list[str] = []
    head, *body = fitted(cells, ORDER, width, VALUES, left_out)
    if colour:
        head = f"\x1b[1m{head}\x1b[0m"
        body = [f"\x1b[{COLOURS[line.part]}m{text}\x1b[0m" for line, text in zip(rows, body, strict=True)]
    missing = f"not shown for want of room: {', '.join(left_out)} (a wider terminal, CSV or JSON has them)"
    return "\n".join([head, *body, "", *(paragraphs([missing], width) if left_out else []), *summary(trace, width)])


def summary(trace: Rows, width: int = 100) -> list[str]:
    """Totals, shares and conventions, as lines."""
    if not len(trace):
        return []
    total = max(trace.parameters, 1), max(trace.macs, 1)
    texts = [
        f"parameters {trace.parameters:,}",
        f"MACs {trace.macs:,} ({trace.macs / 1e9:.3f} G), FLOPs {trace.flops:,}",
        f"bytes read {trace.read:,}, written {trace.written:,}; peak activations {trace.peak_memory:,} ({trace.dtype})",
    ]
    shares = [
        f"{part} {100 * p / total[0]:.1f} % / {100 * m / total[1]:.1f} %" for part, (p, m) in trace.shares().items() if p or m
    ]
    texts += [f"share of parameters / MACs: {', '.join(shares)}", FACTS]
    return paragraphs(texts, width)


def explained(trace: Rows, width: int | None = None, fold: bool = True, language: str = "en", colour: bool = False) -> str:
    """Every step with its formula, its place in the paper, and why; read in order, it is the paper's section 3.1."""
    width = width or shutil.get_terminal_size().columns
    printed = []
    for line in lines(trace, "op", fold):
        row = line.row
        assert row is not None
        for head in wrapped(f"{line.label}  [{row.operation}]  {line.output}", width, indent=""):
            printed.append(f"\x1b[1;{COLOURS[line.part]}m{head}\x1b[0m" if colour else head)
        printed += wrapped(row.formula, width)
        printed += wrapped(f"{row.paper}. {row.why}" if language == "en" else f"{row.paper}。{row.why_zh}", width)
    return "\n".join([*printed, "", *summary(trace, width)])


def markdown(trace: Rows, depth: str = "op", fold: bool = True) -> str:
    rows = lines(trace, depth, fold)
    columns = columns_in_order(rows)
    out = ["| " + " | ".join(heading for heading, _, _ in columns) + " |"]
    out.append("|" + "|".join("---:" if right else "---" for _, _, right in columns) + "|")
    out += ["| " + " | ".join(text(line).replace("*", r"\*") for _, text, _ in columns) + " |" for line in rows]
    return "\n".join([*out, "", *(f"- {text}" for text in summary(trace, 10_000))])


def html(trace: Rows, depth: str = "op", fold: bool = True) -> str:
    """For a notebook: a table with the parts in colour."""

    def cell(text: str, right: bool) -> str:
        return f'<td style="text-align:{"right" if right else "left"};white-space:nowrap">{escape(text)}</td>'

    rows = lines(trace, depth, fold)
    columns = columns_in_order(rows)
    head = "".join(f"<th>{escape(heading)}</th>" for heading, _, _ in columns)
    body = "".join(
        f'<tr style="background:{FILLS[line.part]};color:#000">'
        + "".join(cell(text(line), right) for _, text, right in columns)
        + "</tr>"
        for line in rows
    )
    notes = "<br>".join(map(escape, summary(trace, 10_000)))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{notes}</p>"


def as_json(trace: Rows) -> str:
    """Everything, unfolded."""
    totals = {key: getattr(trace, key) for key in ("parameters", "macs", "flops", "read", "written", "peak_memory")}
    shares = {part: {"parameters": p, "macs": m} for part, (p, m) in trace.shares().items()}
    config = trace.config.to_dict()
    content = {"config": config, "letters": trace.sizes, "dtype": trace.dtype, "totals": totals, "shares": shares}
    rows = [dataclasses.asdict(row) | {"part": row.part} for row in trace]
    for row in rows:
        if row["values"] is None:
            del row["values"]
    return json.dumps(clean(content | {"convention": FACTS, "rows": rows}), indent=1, ensure_ascii=False)


def as_csv(trace: Rows) -> str:
    """One record a step, unfolded; shapes with x between the sizes."""

    def named(tensors: Sequence[Tensor]) -> str:
        return "; ".join(f"{t.name} {shape_text(t.shape, 'x')}" for t in tensors)

    columns: dict[str, Callable[[Row], Any]] = {
        "step": lambda row: row.name,
        "operation": lambda row: row.operation,
        "inputs": lambda row: named(row.inputs),
        "weights": lambda row: named(row.weights),
        "letters": lambda row: row.dims,
        "shape": lambda row: shape_text(row.shape, "x"),
        "dtype": lambda row: row.dtype,
        "parameters": lambda row: row.parameters,
        "macs": lambda row: row.macs,
        "bytes_read": lambda row: row.read,
        "bytes_written": lambda row: row.written,
    }
    values = VALUES if any(row.values for row in trace) else ()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, *values])
    for row in trace:
        writer.writerow([*(of(row) for of in columns.values()), *((row.values or {}).get(key, "") for key in values)])
    return out.getvalue().rstrip("\n")


def diff(a: Rows, b: Rows, names: tuple[str, str], depth: str = "op", fold: bool = True) -> list[dict[str, Any]]:
    """Two traces side by side: one entry a line that either has, in order, with `differs`."""
    left, right = ({line.name: line for line in lines(t, depth, fold)} for t in (a, b))
    order = list(left)
    for name in right:  # steps only the second has stand after the one they follow there
        if name not in left:
            before = list(right)[: list(right).index(name)]
            order.insert(max((order.index(n) + 1 for n in before if n in order), default=0), name)

    def facts(line: Line | None) -> dict[str, Any] | None:
        if line is None:
            return None
        return {
            "times": line.times,
            "operation": line.operation,
            "output": line.output,
            "parameters": total(line.rows, "parameters"),
            "macs": total(line.rows, "macs"),
        }

    entries = []
    for name in order:
        one, two = facts(left.get(name)), facts(right.get(name))
        entries.append({"step": name, names[0]: one, names[1]: two, "differs": one != two})
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
    """The diff as a table; `*` marks the rows that differ. On a narrow terminal each model has a line of its own."""
    entries = diff(a, b, names, depth, fold)
    total: dict[str, Any] = {"step": "total", names[0]: {"macs": a.macs, "parameters": a.parameters}}
    total |= {names[1]: {"macs": b.macs, "parameters": b.parameters}, "differs": False}
    printed = side_by_side([*entries, total], names)
    if max(map(display_width, printed)) > width:
        printed = [text for entry in [*entries, total] for text in one_below_the_other(entry, names, width)]
    printed = [f"\x1b[33m{text}\x1b[0m" if colour and text[0] == "*" else text for text in printed]
    differing = sum(entry["differs"] for entry in entries)
    notes = [f"config: {key} {one} | {two}" for key, (one, two) in config_diff(a, b).items()]
    notes += [f"{differing} of {len(entries)} rows differ (marked *)", FACTS]
    return "\n".join([*printed, "", *paragraphs(notes, width)])


def diff_cells(entry: dict[str, Any], names: tuple[str, str]) -> list[tuple[str, str, str]]:
    """What each of the two models has in a row: output, MACs, parameters."""
    one, two = entry[names[0]], entry[names[1]]
    cells = []
    for line, other in ((one, two), (two, one)):
        output = (line or {}).get("output", "" if line else "-")
        if output and line:
            output += f" x{line['times']}" if line["times"] else ""
            output += f" [{line['operation']}]" if other and other["operation"] != line["operation"] else ""
        cells.append((output, *(f"{line[key]:,}" if line else "-" for key in ("macs", "parameters"))))
    return cells


def side_by_side(entries: Sequence[dict[str, Any]], names: tuple[str, str]) -> list[str]:
    """The entries of a diff as the lines of a table."""
    rows = [["", "step", *names, "MACs", "", "parameters", ""]]
    for entry in entries:
        one, two = diff_cells(entry, names)
        pairs = itertools.chain(*zip(one, two, strict=True))
        rows.append(["*" if entry["differs"] else "", entry["step"], *pairs])
    widths = [max(1, *map(display_width, column)) for column in zip(*rows, strict=True)]

    def padded(row: list[str]) -> str:
        return "  ".join(c.rjust(w) if n > 3 else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()

    return [padded(row) for row in rows]


def one_below_the_other(entry: dict[str, Any], names: tuple[str, str], width: int) -> list[str]:
    """An entry of a diff as several lines: what both have once, else what each has."""

    def text(output: str, macs: str, parameters: str) -> str:
        facts = [f"{macs} MACs", f"{parameters} parameters"] if macs != "-" else []
        # Only between two facts, or at the sign, is a line broken.
        return ", ".join(f.replace(" ", "\xa0").replace("=\xa0", "= ") for f in (output, *facts) if f)

    texts = list(itertools.starmap(text, diff_cells(entry, names)))
    several = texts[:1] if texts[0] == texts[1] else [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
    head = f"{'*' if entry['differs'] else ' '} {entry['step']}"
    return [head, *(line.replace("\xa0", " ") for text in several for line in wrapped(text, width))]


def edges(rows: Sequence[Line]) -> list[tuple[str, str]]:
    """(from, to) for everything a line reads that is "pixels" or another of the lines."""
    names = {line.name for line in rows} | {"pixels"}
    found = []
    for line in rows:
        for tensor in line.row.inputs if line.row else ():
            source = next((name for name in (tensor.name, folded(tensor.name)) if name in names), None)
            found += [(source, line.name)] if source else []
    return found


def mermaid(trace: Rows) -> str:
    """A Mermaid flowchart of what reads what, identical blocks folded."""
    rows = lines(trace)
    numbers = {line.name: f"s{n}" for n, line in enumerate(rows)} | {"pixels": "pixels"}
    out = ["flowchart TD", f'  pixels["pixels<br/>{pixel_shape(trace)}"]']
    for block, group in itertools.groupby(rows, key=lambda line: line.rows[0].block):
        steps = list(group)
        times = steps[0].times
        if block is not None:
            out.append(f'  subgraph blocks{"" if times else block}["encoder block x{times or 1}"]')
        for line in steps:
            name = line.rows[0].local_name if times else line.name
            out.append(f'  {numbers[line.name]}["{name}<br/>{line.operation}<br/>{line.output}"]')
        out += ["  end"] if block is not None else []
    return "\n".join([*out, *(f"  {numbers[a]} --> {numbers[b]}" for a, b in edges(rows))])


def pixel_shape(trace: Rows) -> str:
    return "B C Y X = " + shape_text(trace.sizes[letter] for letter in "BCYX")


BOX_WIDTH, BOX_HEIGHT, BOX_GAP = 300, 46, 14  # of the SVG, pixels
LEFT, TOP = 30, 152  # of the first box
LANE, MARGIN = 11, 20  # between wires that run side by side; between them and the boxes
SIGNS = 'fill="none" stroke="#555" stroke-width="1.5"'


@dataclasses.dataclass
class Place:
    """Where a box of the SVG stands: its panel, its number in it, and how many wires have arrived so far."""

    panel: int
    n: int
    arrived: int = 0

    @property
    def top(self) -> int:
        return TOP + self.n * (BOX_HEIGHT + BOX_GAP)


@dataclasses.dataclass
class Bus:
    """A wire from one box to all that read it, down the gap to the right of a panel: in a lane that no other has there."""

    panel: int
    start: Place
    ends: list[Place]
    lane: int = 0

    @property
    def span(self) -> tuple[int, int]:
        tops = [place.top for place in (self.start, *self.ends)]
        return min(tops), max(tops) + BOX_HEIGHT


def svg(trace: Rows, name: str = "") -> str:
    """A picture for a slide: embedding, one encoder block (its two halves) and the head, left to right.

    name   of the model, for the title
    """
    rows = lines(trace)
    block = [line for line in rows if line.rows[0].block is not None]
    half = next((n + 1 for n, line in enumerate(block) if line.name.endswith("residual1")), 0)
    before = [line for line in rows if line.name.startswith("embed")]
    after = [line for line in rows if line not in before and line not in block]
    panels = {"embedding": before, "attention": block[:half], "MLP": block[half:], "representation": after}
    places = {"pixels": Place(0, 0)}
    for number, panel in enumerate(panels.values()):
        places |= {line.name: Place(number, n + (number == 0)) for n, line in enumerate(panel)}
    straight, buses = wires(edges(rows), places)
    x = panel_places(buses, len(panels))
    width, height = x[-1], max(place.top for place in places.values()) + BOX_HEIGHT + 70
    times = block[0].times if block else 0
    title = svg_title(trace, name)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>',
        svg_text(LEFT, 42, 22, title, bold=True),
        f'<rect x="{x[1] - 22}" y="100" width="{x[2] + BOX_WIDTH - x[1] + 34}" height="{height - 150}" rx="14" fill="none" '
        'stroke="#888" stroke-width="2" stroke-dasharray="7 5"/>',
        svg_text(
            (x[1] + x[2] + BOX_WIDTH) // 2, 88, 19, f"encoder block \u00d7 {times}" if times else "encoder blocks", "middle"
        ),
        *(svg_text(x[n], TOP - 16, 17, heading, bold=True) for n, heading in enumerate(panels)),
        *(
            svg_wire([(x[a.panel] + BOX_WIDTH // 2, a.top + BOX_HEIGHT), (x[a.panel] + BOX_WIDTH // 2, b.top - 2)])
            for a, b in straight
        ),
        *(drawn for bus in buses for drawn in svg_bus(bus, x)),
        *svg_box(x[0], TOP, "embed", "pixels", "", pixel_shape(trace), 0),
    ]
    for line in rows:
        place, row = places[line.name], line.rows[0]
        out += svg_box(x[place.panel], place.top, row.part, row.local_name, row.operation, line.output, row.macs)
    facts = f"{trace.parameters:,} parameters, {trace.macs:,} MACs ({trace.flops:,} FLOPs)"
    return "\n".join([*out, svg_text(LEFT, height - 20, 17, facts), "</svg>"])


def svg_title(trace: Rows, name: str) -> str:
    c, sizes = trace.config, trace.sizes
    picture = f"{sizes['Y']}x{sizes['X']} pixels in patches of {c.patch}x{c.patch}"
    facts = f"{picture}, {c.depth} blocks of width {c.width}, {c.heads} heads"
    return f"{name}: {facts}" if name else facts


def wires(pairs: Sequence[tuple[str, str]], places: dict[str, Place]) -> tuple[list[tuple[Place, Place]], list[Bus]]:
    """What is drawn between the boxes: straight wires to the next one below, and buses, each in a lane of its own."""
    straight: list[tuple[Place, Place]] = []
    buses: dict[tuple[str, int], Bus] = {}
    for source, target in pairs:
        start, end = places[source], places[target]
        if start.panel == end.panel and end.n == start.n + 1:
            straight.append((start, end))
            continue
        gap = start.panel if start.panel == end.panel else max(end.panel - 1, start.panel)
        buses.setdefault((source, gap), Bus(gap, start, [])).ends.append(end)
    inner_first = sorted(buses.values(), key=lambda bus: bus.span[1] - bus.span[0])
    for n, bus in enumerate(inner_first):
        beside = {
            b.lane for b in inner_first[:n] if b.panel == bus.panel and b.span[0] < bus.span[1] and bus.span[0] < b.span[1]
        }
        bus.lane = next(lane for lane in itertools.count() if lane not in beside)
    return straight, list(buses.values())


def panel_places(buses: Sequence[Bus], panels: int) -> list[int]:
    """The left edge of each panel, and that of one more: between two is room for the lanes."""
    x = [LEFT]
    for panel in range(panels):
        lanes = max((bus.lane + 1 for bus in buses if bus.panel == panel), default=0)
        x.append(x[-1] + BOX_WIDTH + 2 * MARGIN + 24 + LANE * lanes)
    return x


def svg_bus(bus: Bus, x: Sequence[int]) -> Iterator[str]:
    """Out of the lower right of a box, along the lane, into the upper right of those below it, the left of other panels'."""
    out, lane = bus.start.top + 36, x[bus.panel] + BOX_WIDTH + MARGIN + LANE * bus.lane
    begin = x[bus.start.panel] + BOX_WIDTH
    for n, end in enumerate(bus.ends):
        into = end.top + 10 + 8 * min(end.arrived, 2)
        end.arrived += 1
        side = x[end.panel] - 2 if end.panel != bus.panel else x[end.panel] + BOX_WIDTH + 2
        yield svg_wire([(begin, out), (lane, out), (lane, into), (side, into)])
        if n:
            yield f'<circle cx="{lane}" cy="{into if n < len(bus.ends) - 1 else out}" r="2.5" fill="#555"/>'


def svg_wire(points: Sequence[tuple[int, int]]) -> str:
    return f'<path d="M{" L".join(f"{x},{y}" for x, y in points)}" {SIGNS} marker-end="url(#tip)"/>'


def svg_box(x: int, y: int, part: str, name: str, operation: str, output: str, macs: int) -> list[str]:
    """One step: its name and operation, below them its shape and cost."""
    right = x + BOX_WIDTH - 10
    return [
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7" fill="{FILLS[part]}" stroke="#777"/>',
        svg_text(x + 10, y + 19, 14, name, bold=True),
        svg_text(right, y + 19, 12, operation, anchor="end"),
        svg_text(x + 10, y + 37, 12, output),
        svg_text(right, y + 37, 11, f"{macs / 1e6:,.1f} M MAC" if macs else "", anchor="end"),
    ]


def svg_text(x: float, y: float, size: int, text: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="#222"{weight}>{escape(text)}</text>'
