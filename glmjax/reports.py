"""Tables as people read them: as text, Markdown, HTML and data frames."""

import html
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from .distributions import Family
from .inferences import Inference
from .inputs import check_count
from .models import Model
from .results import Status
from .tails import two_sided_tail

Adjust = Callable[[Array], Array]


class Report(NamedTuple):
    """A table in words: lines above it, its columns' heads, its rows of cells, of which the first `labels` are names,
    how many rows are left out, and lines below it.
    """

    above: list[str]
    head: list[str]
    cells: list[list[str]]
    labels: int
    left_out: int
    below: list[str]


def summary(table: Inference, *, adjust: Adjust | None = None, stars: bool = False, rows: int = 60) -> str:
    """What R's `summary` prints of a fit, as text; of a batch a row for each lane and coefficient.

        print(gj.summary(table._replace(names=gj.Names(["intercept", "age", "dose"])), stars=True))

    has names of one's own for the coefficients.

    Args:
        table: from `inference`, of one fit or of lanes along one axis.
        adjust: `holm` or `benjamini_hochberg`: p-values of lanes, adjusted for each coefficient over the lanes.
        stars: whether to mark p-values below 0.05, 0.01 and 0.001 by one to three stars.
        rows: how many rows of a batch to print.

    Raises:
        ValueError: lanes along several axes; `adjust` without lanes; another number of names than coefficients.
        TypeError: `table` is no `Inference`.

    Reference: R Core Team, `print.summary.glm`.
    """
    report = _report(table, adjust, stars, rows)
    lines = aligned([report.head, *report.cells], report.labels)
    lines += [f"... {report.left_out} rows more"] * bool(report.left_out)
    return "\n".join([*report.above, "", *lines, *[""] * bool(report.below), *report.below])


def aligned(grid: list[list[str]], labels: int) -> list[str]:
    """Lines of cells in columns, the first `labels` of them to the left."""
    wide = [max(map(len, column)) for column in zip(*grid, strict=True)]

    def line(row: list[str]) -> str:
        cells = zip(row, wide, strict=True)
        return "  ".join(f"{c:<{w}}" if i < labels else f"{c:>{w}}" for i, (c, w) in enumerate(cells)).rstrip()

    return [line(row) for row in grid]


def summary_markdown(table: Inference, *, adjust: Adjust | None = None, stars: bool = False, rows: int = 60) -> str:
    """`summary` as Markdown, with a table as GitHub, notebooks and most others draw it.

    Arguments and errors are those of `summary`.
    """
    report = _report(table, adjust, stars, rows)

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"

    rule = "| " + " | ".join("---" if i < report.labels else "---:" for i in range(len(report.head))) + " |"
    lines = [line(report.head), rule, *map(line, report.cells)]
    left = [f"... {report.left_out} rows more"] * bool(report.left_out)
    # A line of its own each: two spaces at the end are Markdown's way to say so.
    above, below = ("  \n".join(map(_escaped, part)) for part in (report.above, [*left, *report.below]))
    return "\n\n".join(part for part in (above, "\n".join(lines), below) if part)


def summary_html(table: Inference, *, adjust: Adjust | None = None, stars: bool = False, rows: int = 60) -> str:
    """`summary` as a plain HTML table, escaped: a notebook shows it by `IPython.display.HTML(...)`.

    Arguments and errors are those of `summary`.
    """
    report = _report(table, adjust, stars, rows)

    def line(cells: list[str], tag: str) -> str:
        kinds = ["th" if i < report.labels else tag for i in range(len(cells))]
        sides = ["left" if i < report.labels else "right" for i in range(len(cells))]
        parts = [
            f'<{kind} style="text-align: {side}">{html.escape(cell)}</{kind}>'
            for kind, side, cell in zip(kinds, sides, cells, strict=True)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    left = [f"... {report.left_out} rows more"] * bool(report.left_out)
    span = f'<td colspan="{len(report.head)}" style="text-align: left">'
    feet = [f"<tr>{span}{html.escape(text)}</td></tr>" for text in [*left, *report.below]]
    caption = "<br>".join(map(html.escape, report.above))
    return "\n".join(
        [
            "<table>",
            f"<caption>{caption}</caption>",
            f"<thead>{line(report.head, 'th')}</thead>",
            "<tbody>",
            *(line(row, "td") for row in report.cells),
            "</tbody>",
            *(["<tfoot>", *feet, "</tfoot>"] if feet else []),
            "</table>",
        ]
    )


def summary_frame(table: Inference, *, adjust: Adjust | None = None) -> Any:
    """The numbers of `summary` as a pandas data frame, all rows of it and all digits.

    Columns `estimate`, `std_error`, `statistic`, `p_value`, with `adjust` also `p_adjusted`, then `lower`, `upper`, in
    the units of `Inference`, with the coefficients' names for an index. Of a batch the index is (lane, coefficient),
    and `status` says how each lane ended. What there is one of a fit, or of a lane, is in `frame.attrs`, a number or
    a list: `call`, `family`, `link`, `rows`, `status`, `steps`, `dispersion`, `deviance`, `df_resid`, `null_deviance`,
    `log_likelihood`, `aic`, `bic`.

    Args:
        table: from `inference`, of one fit or of lanes along one axis.
        adjust: as in `summary`.

    Returns:
        `pandas.DataFrame`.

    Raises:
        ImportError: pandas is not installed.
        ValueError, TypeError: as `summary`.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("summary_frame makes a pandas data frame; pip install pandas") from error
    axes = _lanes(table, adjust)
    names = list(table.names)
    columns = {name: np.asarray(getattr(table, name)).reshape(-1) for name in _COLUMNS}
    index: Any = pd.Index(names, name="coefficient")
    status: Any = (
        Status(int(table.status)).name if not axes else [Status(int(s)).name for s in np.asarray(table.status)]
    )
    if axes:
        index = pd.MultiIndex.from_product([range(len(table.estimate)), names], names=["lane", "coefficient"])
        columns["status"] = np.repeat(np.asarray(status, object), len(names))
    frame = pd.DataFrame(columns, index=index)
    if adjust is not None:
        frame.insert(4, "p_adjusted", np.asarray(adjust(table.p_value)).reshape(-1))
    family = table.model.family
    frame.attrs = {"call": _call(table.model), "family": family.name, "link": family.link, "status": status}
    for name in ("rows", "steps", *_FIGURES):
        frame.attrs[name] = np.asarray(getattr(table, name)).tolist()
    return frame


_COLUMNS = ("estimate", "std_error", "statistic", "p_value", "lower", "upper")
_FIGURES = ("dispersion", "deviance", "df_resid", "null_deviance", "log_likelihood", "aic", "bic")


def _report(table: Inference, adjust: Adjust | None, stars: bool, rows: int) -> Report:
    rows = check_count(rows, "rows")
    axes = _lanes(table, adjust)
    p_value = table.p_value if adjust is None else adjust(table.p_value)
    fields = (table.estimate, table.std_error, table.statistic, p_value, table.lower, table.upper)
    numbers = np.stack([np.asarray(field, float).reshape(-1) for field in fields], axis=1)
    q = len(table.names)
    letter = "t" if np.any(np.isfinite(table.df)) else "z"  # NaN is of lanes without an answer
    found = "p, adjusted" if adjust else f"P(>|{letter}|)"
    labels = 1 + axes
    head = [""] * labels + ["estimate", "std error", letter, found, f"{level_text(table)}from", "to"] + [""] * stars
    cells = []
    for i, row in enumerate(numbers[:rows] if axes else numbers):
        mark = ["*" * sum(row[3] < bar for bar in (0.05, 0.01, 0.001))] * stars
        name = [f"lane {i // q}"] * axes + [table.names[i % q]]
        cells.append([*name, *(in_digits(value, p=j == 3) for j, value in enumerate(row)), *mark])
    left_out = len(numbers) - len(cells)
    if axes:
        return Report([_batch_head(table)], head, cells, labels, left_out, [])
    ended, steps = Status(int(table.status)), int(table.steps)
    above = [f"{_call(table.model)} on {_count(table.rows)} rows: {ended.name} in {steps} step{'s' * (steps != 1)}"]
    above += [ended.sentence] * (not ended.ok)
    known = "taken to be" if letter == "z" else "estimated as"
    below = [
        f"dispersion {known} {in_digits(table.dispersion)}",
        f"deviance {in_digits(table.deviance)} on {in_digits(table.df_resid)} degrees of freedom, "
        f"null {in_digits(table.null_deviance)}",
        f"log-likelihood {in_digits(table.log_likelihood)}, AIC {in_digits(table.aic)}, BIC {in_digits(table.bic)}",
    ]
    return Report(above, head, cells, labels, left_out, below)


def _lanes(table: Inference, adjust: Adjust | None) -> int:
    """How many axes of lanes a table has, 0 or 1; raises for what is no table, or cannot be one in print."""
    if not isinstance(table, Inference):
        raise TypeError(f"table must be an Inference, gj.inference(data, fit), got {type(table).__name__}")
    axes = np.ndim(table.estimate) - 1
    if axes > 1:
        raise ValueError(f"table has lanes along {axes} axes; reshape each field to one")
    if adjust is not None and not axes:
        raise ValueError("adjust is for the p-values of many lanes, and the table is of one fit")
    if len(table.names) != np.shape(table.estimate)[-1]:
        raise ValueError(f"names has {len(table.names)} names for {np.shape(table.estimate)[-1]} coefficients")
    return axes


def _batch_head(table: Inference) -> str:
    """What was fitted in all lanes, and how many ended how."""
    status, rows = np.asarray(table.status), np.asarray(table.rows)
    ended = ", ".join(f"{np.sum(status == s)} {s.name}" for s in Status if np.any(status == s))
    low, high = _count(rows.min()), _count(rows.max())
    return f"{_call(table.model)}, {len(status)} lanes of {low if low == high else f'{low} to {high}'} rows: {ended}"


def _call(model: Model) -> str:
    """The model as it is written; a number that differs between lanes, or was estimated, is left out."""
    family: Family = model.family
    parts = [str(n) for n in (family.n_classes or family.n_outputs,) if n is not None]
    parts += [f"reference={family.reference}"] * (family.reference is not None)
    for name in ("alpha", "power"):
        value = getattr(family, name)
        if np.ndim(value) == 0 and value is not None and not (name == "alpha" and family.estimates_alpha):
            parts.append(f"{name}={in_digits(value)}")
    parts.append(f'link="{family.link}"')
    return f"glm({family.name}({', '.join(parts)}){', bias=False' * (not model.predictor.bias)})"  # type: ignore[union-attr]


_student_tails = jax.jit(two_sided_tail)


def level_text(table: Inference) -> str:
    """The level of the intervals, from their width, as "95% "; empty where no coefficient has one."""
    # On the host, or as one program: each operation on its own would be one, and each takes a first call some 10 ms.
    estimate, upper, error, df = map(np.asarray, (table.estimate, table.upper, table.std_error, table.df))
    df = np.broadcast_to(df[..., None], estimate.shape)
    with np.errstate(all="ignore"):
        reach = (upper - estimate) / error
    tail = np.array([math.erfc(z * math.sqrt(0.5)) for z in reach.ravel().tolist()]).reshape(reach.shape)
    if not np.all(np.isinf(df)):
        tail = np.where(np.isinf(df), tail, _student_tails(reach, np.where(np.isinf(df), 1, df)))
    tails = tail[np.isfinite(tail)]
    return f"{100 * round(float(1 - np.median(tails)), 6):.4g}% " if tails.size else ""


def in_digits(number: Any, p: bool = False) -> str:
    """A number in five digits, or to the unit; a p-value in three, as R down to 2e-16."""
    value = float(number)
    if np.isnan(value):
        return "NA"
    if 1e5 <= abs(value) < 1e15:
        return f"{value:.0f}"
    if p and value < 2e-16:
        return "<2e-16"
    return (f"{value:.3f}" if value >= 0.001 else f"{value:.1e}") if p else f"{value:.5g}"


def _count(number: Any) -> str:
    """How many, in all digits; weights need not be whole."""
    return f"{float(number):.10g}"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\|*_<&`":
        text = text.replace(mark, "\\" + mark)
    return text
