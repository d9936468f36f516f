"""Designs: how a formula makes x, y and offset of a data frame, and the same again of another frame."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .formulas import (
    Matrix,
    Term,
    check_levels,
    expanded,
    factors_of,
    in_floats,
    is_offset,
    matrix_of,
    names_of,
    parse,
    quoted,
)
from .tabular import check_text, columns_in, first_missing, kind_of, missing_rows, read_columns, rows_kept

if TYPE_CHECKING:  # what needs JAX is imported when used: the command line reads its file in a process without
    from .data import Data
    from .distributions import Family


class Design(NamedTuple):
    """How a formula's columns are made, as found on the frame that was fitted; text and numbers, none of its rows.

    `formula`; `bias`, whether there is an intercept; `columns`, the names of x's; `terms`, of those that have columns
    in x; `classes`, the target's labels in the order of their codes, or None; `kinds`, "numbers" or "text", of the
    columns of the frame that are no categories; `levels` of each categorical factor; `states` of functions such as
    `center`; `dropped`, how many rows were left out for missing values.
    """

    formula: str
    bias: bool
    columns: tuple[str, ...]
    terms: tuple[Term, ...]
    classes: tuple[Any, ...] | None
    kinds: dict[str, str]
    levels: dict[str, list[Any]]
    states: dict[str, Any]
    dropped: int


class Parts(NamedTuple):
    """The columns of a right side, sorted: x (n, d), the offset (n,) or None, and what is said of them in `Design`."""

    x: np.ndarray
    offset: np.ndarray | None
    columns: tuple[str, ...]
    terms: tuple[Term, ...]
    bias: bool


class Made(NamedTuple):
    """What a formula makes of a frame, in NumPy: the `design`; of the rows that are kept x (n, d), y (n,) or (n, k) and
    the offset (n,) or None; of what is `beside` the formula the same rows.
    """

    design: Design
    x: np.ndarray
    y: np.ndarray
    offset: np.ndarray | None
    beside: dict[str, Any]


def read(
    formula: str,
    frame: Any,
    family: "Family",
    *,
    weight: str | Any = None,
    precision: str | Any = None,
    exposure: str | None = None,
    missing: str = "raise",
) -> "tuple[Design, Data]":
    """A data frame as `Data`, by a formula, and the `Design` that says how. Arguments and errors are those of `fit`."""
    from .data import check_family
    from .inputs import float_dtype

    if float_dtype(np.float64) != np.float64:
        warnings.warn(
            "a formula's columns are float64 but JAX runs in float32, about 7 digits; call "
            'jax.config.update("jax_enable_x64", True) first',
            stacklevel=2,
        )
    check_family(family)
    beside = {"weight": weight, "precision": precision}
    made = made_of(formula, frame, family.name, family.n_classes, exposure, missing, beside)
    return made.design, data_of(made, family)


def data_of(made: Made, family: "Family") -> "Data":
    """What was made of a frame as `Data`."""
    from .data import make_data
    from .inputs import float_dtype

    x = made.x.astype(float_dtype(np.float64), copy=False)
    weights = {name: made.beside.get(name) for name in ("weight", "precision")}
    return make_data(x, made.y, family=family, offset=made.offset, **weights)


def made_of(
    formula: str,
    frame: Any,
    family: str,
    n_classes: int | None,
    exposure: str | None,
    missing: str,
    beside: dict[str, Any],
) -> Made:
    """What a formula makes of a frame, for a family by name; what is `beside` it is named, or given for each row."""
    check_missing(missing)
    available = columns_in(frame)
    formula = expanded(formula, available)
    if exposure is not None:
        if not isinstance(exposure, str):
            raise TypeError(
                f"exposure must be the name of a column, got {type(exposure).__name__}; or write offset(log(column))"
            )
        formula += f" + offset(log({quoted(exposure)}))"
    parsed = parse(formula)
    for factor in factors_of(parsed.rhs):
        if factor.expr in {target.expr for target in factors_of(parsed.lhs)}:
            raise ValueError(f"the target {factor.expr} is on the right side of the formula too; leave it out there")
    used = [name for factor in factors_of(parsed.lhs, parsed.rhs) for name in names_of(factor, available)]
    named = {name: value for name, value in beside.items() if isinstance(value, str)}
    for name, value in named.items():
        if value not in available:
            raise ValueError(f"{name}={value!r} is no column of the frame; its columns are {', '.join(available)}")
    table = read_columns(frame, list(dict.fromkeys([*used, *named.values()])))
    rows, kept = len(table), ~missing_rows(table)
    if not kept.all():
        if missing == "raise":
            raise ValueError(f'{first_missing(table)}; fill them in, or leave such rows out by missing="drop"')
        if not kept.any():
            raise ValueError("every row misses a value in a column that is used; nothing is left to fit")
        table = rows_kept(table, kept)
    for factor in factors_of(parsed.lhs, parsed.rhs):
        if factor.eval_method.value == "lookup":
            check_text(table[factor.expr], factor.expr)
    computed = [factor for factor in factors_of(parsed.lhs) if factor.eval_method.value != "lookup"]
    table = in_floats(factors_of(parsed.rhs) + computed, table)
    y, classes = _target(parsed.lhs, table, family, n_classes)
    made = matrix_of(parsed.rhs, table, {}, {})
    parts = parts_of(made)
    for term in made.terms:
        if not term.columns:
            warnings.warn(f"{term.name} has one level in these rows, and so no column: it is left out", stacklevel=3)
    design = Design(
        formula=formula,
        bias=parts.bias,
        columns=parts.columns,
        terms=parts.terms,
        classes=classes,
        kinds={
            name: kind_of(table[name])
            for factor in factors_of(parsed.rhs)
            if factor.expr not in made.levels
            for name in names_of(factor, available)
        },
        levels=made.levels,
        states=made.states,
        dropped=rows - len(table),
    )

    def aligned(value: Any) -> Any:
        if isinstance(value, str):
            held = table[value].to_numpy()
            return held.astype(np.int64) if held.dtype == float and (held % 1 == 0).all() else held  # labels may be
        return np.asarray(value)[kept] if np.shape(value)[:1] == (rows,) else value

    return Made(design, parts.x, y, parts.offset, {name: aligned(value) for name, value in beside.items()})


def rows_of(design: Design, frame: Any, missing: str = "raise") -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """x and the offset of another frame, and which of its rows they are of, (n,); its target is not looked at.

    Warns where the columns of the offset are not there: it is 0 then. Raises for a column that is not there or of
    another kind, a level that was not fitted, and a missing value unless such rows are to be dropped.
    """
    check_missing(missing)
    available = columns_in(frame)
    terms = list(parse(design.formula).rhs)
    known = [*available, *design.kinds]
    lost = [
        name
        for factor in factors_of(terms)
        if is_offset(factor.expr)
        for name in names_of(factor, known)
        if name not in available
    ]
    if lost:
        warnings.warn(
            f"the model was fitted with an offset, and the frame has no column {lost[0]!r} for it: the offset is taken "
            "to be 0, an exposure of 1",
            stacklevel=4,
        )
        terms = [term for term in terms if not is_offset(str(term))]
    names = [name for factor in factors_of(terms) for name in names_of(factor, available)]
    table = read_columns(frame, list(dict.fromkeys(names)))
    kept = ~missing_rows(table)
    if not kept.all():
        if missing == "raise":
            raise ValueError(f'{first_missing(table)}; fill them in, or pass missing="drop"')
        table = rows_kept(table, kept)
    for name in table.columns:
        found, held = kind_of(table[name]), design.kinds.get(name)
        if held is not None and found != held:
            one = table[name].tolist()[0]
            raise TypeError(f"column {name!r} holds {found}, such as {one!r}; it was {held} in the fit")
    for name in table.columns:  # a file does not tell that numbers were categories
        if name in design.levels and kind_of(table[name]) == "numbers":
            table[name] = table[name].astype("category")
    table = in_floats(factors_of(terms), table)
    check_levels(terms, table, design.levels)
    parts = parts_of(matrix_of(terms, table, design.levels, design.states))
    if parts.columns != design.columns:
        strange = sorted(set(parts.columns) ^ set(design.columns))
        raise ValueError(f"the formula makes other columns of this frame than of the one that was fitted: {strange}")
    return parts.x, parts.offset, kept


def parts_of(made: Matrix) -> Parts:
    """A right side's columns: those of x, and the offset, which is the sum of all `offset(...)`."""
    for place in np.flatnonzero(~np.isfinite(made.values.sum(axis=0))):
        finite = np.isfinite(made.values[:, place])
        if not finite.all():  # numbers whose sum overflows are for `make_data` to tell of
            row = int(np.argmin(finite))
            raise ValueError(
                f"{made.names[place]} is {made.values[row, place]} in row {row}; drop such rows, or write the formula "
                "otherwise"
            )
    offsets = [place for term in made.terms if is_offset(term.name) for place in term.columns]
    free = [place for term in made.terms if term.name == "1" for place in term.columns]
    kept = [place for place in range(len(made.names)) if place not in {*offsets, *free}]
    places = {place: i for i, place in enumerate(kept)}
    together = len(kept) > 0 and kept[-1] - kept[0] == len(kept) - 1  # mostly: no copy then
    terms = [Term(t.name, tuple(places[c] for c in t.columns if c in places)) for t in made.terms]
    return Parts(
        x=made.values[:, slice(kept[0], kept[-1] + 1) if together else kept],
        offset=made.values[:, offsets].sum(axis=1) if offsets else None,
        columns=tuple(made.names[place] for place in kept),
        terms=tuple(term for term in terms if term.columns),
        bias=bool(free),
    )


def check_missing(missing: Any) -> None:
    """Raise unless `missing` is a policy."""
    if missing not in ("raise", "drop"):
        raise ValueError(f'missing={missing!r} must be "raise" or "drop"')


def _target(side: Any, table: Any, family: str, n_classes: int | None) -> tuple[np.ndarray, tuple[Any, ...] | None]:
    """The target of a formula, (n,) or (n, k), and its labels where it is codes of them."""
    factors = factors_of(side)
    if len(factors) == 1 and factors[0].eval_method.value == "lookup":
        name = factors[0].expr
        column = table[name]
        if kind_of(column) == "numbers" and n_classes is None:
            return column.to_numpy(), None
        return _coded(column, name, family, n_classes)
    made = matrix_of(side, table, {}, {})
    if made.levels:
        raise TypeError(f"the target {side} holds text; name its column alone, or compare it, as I(a == 'yes')")
    return (made.values[:, 0] if made.values.shape[1] == 1 else made.values), None


def _coded(column: Any, name: str, family: str, n_classes: int | None) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Codes of labels: the classes of a categorical target, or 0 and 1, of which the second level is the event."""
    coded = column.astype("category").cat
    levels = tuple(level.item() if isinstance(level, np.generic) else level for level in coded.categories)
    wanted = n_classes or 2
    if n_classes is None and family != "bernoulli":
        raise TypeError(f"the target {name!r} holds text, such as {column.iloc[0]!r}, and {family} targets are numbers")
    if len(levels) != wanted:
        shown = ", ".join(map(repr, levels[:12])) + ", ..." * (len(levels) > 12)
        raise ValueError(f"the target {name!r} has {len(levels)} levels, {shown}; the {family} family has {wanted}")
    return coded.codes.to_numpy(), levels
