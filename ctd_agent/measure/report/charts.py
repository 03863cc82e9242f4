"""The report's pictures, as elements of HTML and SVG: curves, bars and differences with intervals, a heat map.

Text only ever becomes an element's text or an attribute's value, and is escaped when the page is written.
"""

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from ctd_agent.measure.metrics import Interval

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 42  # the margins around a curve's field


class Curve(NamedTuple):
    """A named line of a chart: one interval for every place on the x axis."""

    name: str
    values: Sequence[Interval]


def element(name: str, *children: Element | str, **attributes: str) -> Element:
    """Return an element. `_` in an attribute's name stands for `-`, and one at its end for nothing."""
    made = Element(name, {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def number(value: float, signed: bool = False) -> str:
    """Return a figure as the page writes it: three decimals below ten, with a true minus."""
    text = f"{value:+.3f}" if signed else f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return text.replace("-", "−")


def interval_text(value: Interval, signed: bool = False) -> str:
    """Return a figure with its interval in brackets."""
    mean, low, high = (number(part, signed) for part in value)
    return f"{mean} [{low}, {high}]"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    """Return a table whose first column names its rows."""
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", *(element("th", text, scope="col") for text in headings))),
            element(
                "tbody",
                *(
                    element("tr", element("th", row[0], scope="row"), *(element("td", text) for text in row[1:]))
                    for row in rows
                ),
            ),
        ),
        class_="scroll",
    )


def curves(lines: Sequence[Curve], places: Sequence[str], x_label: str, y_label: str) -> Element:
    """Return lines with bands over [0, 1], the places evenly apart, with the numbers in a table below."""
    spans = [LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.5) / len(places) for i in range(len(places))]
    svg = element(
        "svg",
        *_axes(spans, places, x_label, y_label),
        *(part for i, line in enumerate(lines) for part in _line(line, spans, i)),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{y_label} by {x_label}: " + "; ".join(f"{line.name} {_ends(line)}" for line in lines),
    )
    rows = [(place, *(interval_text(line.values[i]) for line in lines)) for i, place in enumerate(places)]
    numbers = element(
        "details", element("summary", "The numbers"), table((x_label, *(line.name for line in lines)), rows)
    )
    keys = [
        element("li", element("span", class_=f"key series-{i}", aria_hidden="true"), line.name)
        for i, line in enumerate(lines)
    ]
    return element("div", *([element("ul", *keys, class_="legend")] if len(lines) > 1 else []), svg, numbers)


def _ends(line: Curve) -> str:
    return f"from {number(line.values[0].mean)} to {number(line.values[-1].mean)}"


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(share, 0.0), 1.0))


def _axes(spans: Sequence[float], places: Sequence[str], x_label: str, y_label: str) -> list[Element]:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = f"{_y(tick):.1f}"
        parts.append(element("line", x1=f"{LEFT}", x2=f"{WIDTH - RIGHT}", y1=y, y2=y, class_="grid"))
        parts.append(element("text", f"{tick:g}", x=f"{LEFT - 6}", y=y, dy="0.32em", text_anchor="end"))
    below = f"{HEIGHT - BOTTOM + 16}"
    parts += [
        element("text", place, x=f"{x:.1f}", y=below, text_anchor="middle")
        for x, place in zip(spans, places, strict=True)
    ]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    across = f"{(LEFT + WIDTH - RIGHT) / 2:.1f}"
    parts.append(element("text", x_label, x=across, y=f"{HEIGHT - 6}", text_anchor="middle", class_="axis"))
    turn = f"rotate(-90 12 {middle:.1f})"
    up = element("text", y_label, x="12", y=f"{middle:.1f}", text_anchor="middle", transform=turn, class_="axis")
    return [*parts, up]


def _line(line: Curve, spans: Sequence[float], series: int) -> list[Element]:
    """A curve's band, its line, and a mark at every place: a disc, a square, so that colour is not all."""
    upper = [(x, _y(value.high)) for x, value in zip(spans, line.values, strict=True)]
    lower = [(x, _y(value.low)) for x, value in zip(spans, line.values, strict=True)]
    means = [(x, _y(value.mean)) for x, value in zip(spans, line.values, strict=True)]
    parts = [
        element("polygon", points=_points([*upper, *reversed(lower)]), class_=f"band series-{series}"),
        element("polyline", points=_points(means), class_=f"line series-{series}"),
    ]
    for (x, y), value in zip(means, line.values, strict=True):
        shape = (
            element("rect", x=f"{x - 3.5:.1f}", y=f"{y - 3.5:.1f}", width="7", height="7")
            if series % 2
            else element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="4")
        )
        shape.set("class", f"mark series-{series}")
        shape.append(element("title", f"{line.name}: {interval_text(value)}"))
        parts.append(shape)
    return parts


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def bars(rows: Sequence[tuple[str, Interval]]) -> Element:
    """Return named bars from zero, each with its interval as a whisker and its numbers beside it."""
    top = max([value.high for _, value in rows] + [1e-9])
    return _plot(rows, 0.0, top, signed=False)


def differences(rows: Sequence[tuple[str, Interval]]) -> Element:
    """Return named differences around a line at zero, each a bar with a whisker and its numbers."""
    reach = max([abs(end) for _, value in rows for end in (value.low, value.high)] + [1e-9])
    return _plot(rows, -reach, reach, signed=True)


def _plot(rows: Sequence[tuple[str, Interval]], low: float, high: float, *, signed: bool) -> Element:
    def percent(value: float) -> float:
        return 100 * (value - low) / (high - low)

    def span(start: float, end: float, class_: str) -> Element:
        left, right = sorted((percent(start), percent(end)))
        return element("span", class_=class_, style=f"left:{left:.2f}%;width:{right - left:.2f}%")

    made = []
    for name, value in rows:
        sign = " down" if signed and value.mean < 0 else ""
        field = element(
            "span",
            span(0.0, value.mean, f"bar{sign}"),
            span(value.low, value.high, "whisker"),
            *([span(0.0, 0.0, "zero")] if signed else []),
            class_="field",
            aria_hidden="true",
        )
        figures = element("span", interval_text(value, signed), class_="figures")
        made.append(element("li", element("span", name, class_="name"), field, figures))
    return element("ul", *made, class_="plot")


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[Interval]], corner: str) -> Element:
    """Return a table whose cells are the deeper the higher their value, with the numbers in them."""
    means = [value.mean for row in values for value in row]
    least, most = min(means), max(means)

    def cell(value: Interval) -> Element:
        depth = (value.mean - least) / (most - least) if most > least else 0.0
        spread = element("small", f"[{number(value.low)}, {number(value.high)}]")
        return element("td", number(value.mean), spread, style=f"--depth:{100 * depth:.0f}%")

    head = element("tr", element("td", corner), *(element("th", column, scope="col") for column in columns))
    body = [
        element("tr", element("th", row, scope="row"), *map(cell, line)) for row, line in zip(rows, values, strict=True)
    ]
    grid = element("table", element("thead", head), element("tbody", *body), class_="heat")
    return element("div", grid, class_="scroll")
