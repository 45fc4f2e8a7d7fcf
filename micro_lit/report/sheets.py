"""Sheets: panels in rows, mostly heat maps, on a page that is sized to fit them.

Dimension letters: R rows, C columns of a heat map.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from micro_lit.report.figures import COLOURS, FLOOR_COLOUR, STYLE

Array = NDArray[np.float64]

BLUE, VERMILLION, GREEN, *_ = COLOURS
SHEET_INK, PAPER, FAINT, ABSENT = "#222222", "#FFFFFF", "#F7F7F7", "#DDDDDD"
CELL = (0.42, 0.29)  # inches: width and height of a cell
BAR, PANEL_GAP, WIDEST = 0.11, 0.16, 15.0  # inches: colour bar width, space around panels, largest row width
LOOKS = {**STYLE, "text.parse_math": False}  # names may contain `$`


class Scale(NamedTuple):
    """The colour scale of a heat map: colour map, lowest and highest value."""

    colours: Colormap
    low: float
    high: float


DIVERGING = LinearSegmentedColormap.from_list("diverging", [VERMILLION, FAINT, BLUE])
RISING = LinearSegmentedColormap.from_list("rising", [FAINT, GREEN, "#00392B"])


def heat_map(
    figure: Figure,
    title: str,
    values_RC: Array,
    rows: Sequence[str | int],
    columns: Sequence[str | int],
    scale: Scale,
    outlined_RC: NDArray[np.bool_],
    cell: tuple[float, float] = CELL,
    form: str = "z.2f",
) -> Axes:
    """Draws a heat map with the numbers in its cells, first row on top; `arrange` positions it later.

    Args:
        values_RC: values; NaN becomes an empty grey cell.
        rows, columns: tick labels.
        outlined_RC: cells with an outline.
        cell: width and height of a cell, in inches.
        form: format of the numbers.
    """
    num_rows, num_columns = values_RC.shape
    page = figure.get_size_inches()
    axes = figure.add_axes((0.0, 0.0, cell[0] * num_columns / page[0], cell[1] * num_rows / page[1]))
    axes.pcolormesh(
        np.ma.masked_invalid(values_RC), cmap=scale.colours, vmin=scale.low, vmax=scale.high,
        edgecolors=PAPER, linewidth=0.8,
    )  # fmt: skip
    for (row, column), value in np.ndenumerate(values_RC):
        if not np.isnan(value):
            number = f"{value:{form}}".replace("-", "−")
            colour = _ink_on(scale.colours((value - scale.low) / (scale.high - scale.low)))
            axes.text(column + 0.5, row + 0.5, number, ha="center", va="center", fontsize=7.5, color=colour)
        if outlined_RC[row, column]:
            frame = Rectangle(
                (column, row), 1, 1, fill=False, edgecolor=SHEET_INK, linewidth=1.3, zorder=3, clip_on=False
            )
            axes.add_patch(frame)
    axes.set_title(title)
    axes.set_facecolor(ABSENT)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(np.arange(num_rows) + 0.5, rows)
    axes.set_xticks(np.arange(num_columns) + 0.5, columns)
    axes.invert_yaxis()
    return axes


def _ink_on(colour: Sequence[float]) -> str:
    """Text colour, dark or light, with more contrast to a cell colour, by relative luminance (WCAG 2)."""
    red, green, blue = (((part + 0.055) / 1.055) ** 2.4 if part > 0.04045 else part / 12.92 for part in colour[:3])
    return SHEET_INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.21 else PAPER


def colour_bar(axes: Axes) -> Axes:
    """Adds the colour bar of a heat map, with the height of the map."""
    figure, colours = axes.figure, axes.collections[0]
    bar = figure.add_axes((0.0, 0.0, BAR / figure.get_size_inches()[0], axes.get_position().height))
    figure.colorbar(colours, cax=bar, ticks=np.linspace(*colours.get_clim(), 3)).outline.set_visible(False)
    bar.tick_params(length=2, labelsize=7.5)
    return bar


def caption(figure: Figure, title: str, note: str) -> None:
    """Adds a title above all panels and a note below."""
    figure.suptitle(title, x=0.0, y=1.0, ha="left", va="top", fontsize=11, fontweight="bold")
    figure.text(0.0, 0.0, note, fontsize=7.5, color=FLOOR_COLOUR, va="bottom")


def arrange(figure: Figure, groups: Sequence[Sequence[Sequence[Axes]]]) -> None:
    """Sizes the page and positions panels from left to right without overlapping text.

    Args:
        figure: a figure with a `caption`.
        groups: groups of panels. A panel is a list of axes that stay together, such as a heat map and its colour bar.
            If the panels do not fit in one row, each group starts a new row.
    """
    to_inches = figure.dpi_scale_trans.inverted()
    inner = {axes: axes.get_window_extent().transformed(to_inches) for axes in figure.axes}
    outer = {axes: axes.get_tightbbox().transformed(to_inches) for axes in figure.axes}
    title, note = figure.texts
    title_box, note_box = (text.get_window_extent().transformed(to_inches) for text in figure.texts)
    if sum(box.width + PANEL_GAP for box in outer.values()) <= WIDEST:
        groups = [[panel for group in groups for panel in group]]
    lines: list[list[Axes]] = []
    widths: list[float] = []
    for group in groups:
        for number, panel in enumerate(group):
            width = sum(outer[axes].width + PANEL_GAP for axes in panel)
            if number == 0 or widths[-1] + width > WIDEST:
                lines.append([])
                widths.append(0.0)
            lines[-1] += panel
            widths[-1] += width
    places = {}
    top = PANEL_GAP + title_box.height
    for line in lines:
        left = PANEL_GAP
        top += PANEL_GAP + max(outer[axes].y1 - inner[axes].y1 for axes in line)
        for axes in line:
            places[axes] = (left + inner[axes].x0 - outer[axes].x0, top)
            left += outer[axes].width + PANEL_GAP
        top += max(inner[axes].y1 - outer[axes].y0 for axes in line)
    page_width = PANEL_GAP + max(*widths, title_box.width + PANEL_GAP, note_box.width + PANEL_GAP)
    page_height = top + note_box.height + 2 * PANEL_GAP
    figure.set_size_inches(page_width, page_height)
    for axes, (left, top) in places.items():
        width, height = inner[axes].size
        bottom = page_height - top - height
        axes.set_position((left / page_width, bottom / page_height, width / page_width, height / page_height))
    title.set_position((PANEL_GAP / page_width, 1.0 - PANEL_GAP / page_height))
    note.set_position((PANEL_GAP / page_width, PANEL_GAP / page_height))
