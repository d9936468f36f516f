"""Formulas, by formulaic: what they may say, and the columns that they make of a table."""

import ast
import difflib
import keyword
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .tabular import imported

_TILDE = re.compile(r"((?:[^`~]|`[^`]*`)*)~(.*)", re.DOTALL)  # none that is in a column's name
_QUOTED = re.compile(r"`([^`]*)`")
_DOT = re.compile(r"""(`[^`]*`|"[^"]*"|'[^']*')|(?<![\w.)\]`])\.(?![\w.`])""")  # R's "all other columns", or a name
_CONTRASTS = {"SAS", "custom", "diff", "helmert", "poly", "sum", "treatment"}
_NO_TEXT = {"`", '"', "\\"}
_ELSEWHERE = {  # R's names of what is here too
    "factor": "C(a)",
    "relevel": 'C(a, contr.treatment("level"))',
    "ifelse": "np.where(a, b, c)",
    "ns": "cs(a, df=4, constraints='center')",
    "pmin": "np.minimum(a, b)",
    "pmax": "np.maximum(a, b)",
} | {name: f"np.{name}(a)" for name in ("sqrt", "abs", "log1p", "expm1", "sin", "cos", "tan", "floor", "ceil", "sign")}
_STRANGE = {"exp10", "Q"}  # of formulaic's functions: one that is not what it says, and one that backticks serve for


class Term(NamedTuple):
    """One term of a formula: its `name`, and the places of its columns in x."""

    name: str
    columns: tuple[int, ...]


def parse(formula: str) -> Any:
    """The formula's two sides, `lhs` and `rhs`."""
    imported()
    from formulaic import Formula

    try:
        parsed = Formula(formula)
    except Exception as error:  # formulaic's own, and those of Python's parser
        words = [word for word in re.findall(r"\w+", formula) if keyword.iskeyword(word)]
        hint = f"; {words[0]!r} is a word of Python's: rename that column" if words else ""
        raise ValueError(f"formula={formula!r} cannot be read: {_plain(str(error)).splitlines()[0]}{hint}") from None
    sides = getattr(parsed, "lhs", None), getattr(parsed, "rhs", None)
    if any(side is None or isinstance(side, tuple) for side in sides) or not list(sides[0]):  # type: ignore[arg-type]
        raise ValueError(f"formula={formula!r} must have one target and one right side, as 'y ~ a + b'")
    for term in parsed.rhs:
        if len(term.factors) > 1 and any(is_offset(factor.expr) for factor in term.factors):
            raise ValueError(f"{term} in the formula: an offset is a term of its own")
    return parsed


def is_offset(term: str) -> bool:
    """Whether a term is an offset."""
    return term.startswith("offset(")


def expanded(formula: str, frame_columns: Iterable[str]) -> str:
    """The formula with "." written as all columns that are not named on its left."""
    if not isinstance(formula, str):
        raise TypeError(f"formula must be text such as 'y ~ a + b', got {formula!r}")
    sides = _TILDE.match(formula)
    if not sides or not sides[1].strip():
        raise ValueError(f"formula={formula!r} must have a target on its left, as 'y ~ a + b'")
    left, right = sides[1], sides[2]
    for name in _QUOTED.findall(formula):
        quoted(name)
    if all(found[1] for found in _DOT.finditer(right)):
        return formula
    named = {a or b for a, b in re.findall(r"`([^`]+)`|([^\W\d]\w*)", left)}
    others = " + ".join(quoted(name) for name in frame_columns if name not in named)
    return f"{left}~{_DOT.sub(lambda found: found[1] or f'({others})', right)}"


def quoted(name: str) -> str:
    """A column's name as a formula has it: in backticks only where it must, which formulaic may take for others."""
    if "`" in name or name in ("", "1", "."):  # these are other things to formulaic, in backticks too
        raise ValueError(f"no formula can hold a column of the name {name!r}; rename it")
    return name if name.isidentifier() else f"`{name}`"


def factors_of(*sides: Any) -> list[Any]:
    """The factors of all terms, constants left out."""
    found = {factor.expr: factor for side in sides for term in side for factor in term.factors}
    return [factor for factor in found.values() if factor.eval_method.value != "literal"]


def functions() -> dict[str, Any]:
    """What a formula may call."""
    from formulaic.transforms import TRANSFORMS

    known = {name: function for name, function in TRANSFORMS.items() if name not in _STRANGE}
    return known | {"offset": _offset, "cbind": _bound}


def _offset(values: Any) -> Any:
    if getattr(values, "dtype", None) == "category":
        raise TypeError("it holds text, and an offset is a number")
    return values


def _bound(*values: Any) -> np.ndarray:
    return np.stack([np.asarray(value) for value in values], axis=1)


def names_of(factor: Any, columns: Iterable[str]) -> list[str]:
    """The columns of the frame that a factor is made of; raises for what is neither a column nor a known function."""
    from formulaic.utils.code import sanitize_variable_names

    columns, known = list(columns), functions()
    if factor.eval_method.value == "lookup":
        return [_column(factor.expr, columns)]
    odd: dict[str, str] = {}
    # By formulaic's own reading of what is a name and what is text: what it will run is looked at, and nothing else.
    text = sanitize_variable_names(factor.expr, dict.fromkeys([*columns, *known]), odd)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError:
        raise ValueError(f"{factor.expr!r} in the formula cannot be read") from None
    found = [_column(name, columns) for name in odd.values()]
    modules = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _check_attribute(node, factor.expr)
        elif isinstance(node, ast.Lambda | ast.NamedExpr | ast.comprehension | ast.Await):
            raise ValueError(f"{factor.expr!r} in the formula is a program; use functions of columns")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
            raise ValueError(f"{factor.expr!r} in the formula: inside of a function a power is **, as in I(a**2)")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and set(node.value) & _NO_TEXT:
            # formulaic pastes the text of some calls into code.
            raise ValueError(f'{factor.expr!r} in the formula: text there may hold none of ` " \\; rename that level')
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ELSEWHERE:
            here = _ELSEWHERE[node.func.id]
            raise ValueError(f"{factor.expr!r} in the formula: {node.func.id} is not known here; write {here}")
        elif (
            isinstance(node, ast.Name)
            and id(node) not in modules
            and node.id not in odd
            and (node.id in columns or node.id not in known)
        ):
            found.append(_column(node.id, columns, known))
    return list(dict.fromkeys(found))


def _check_attribute(node: ast.Attribute, expression: str) -> None:
    """Of NumPy its elementwise functions, of `contr` the contrasts: nothing that reads or writes."""
    module = node.value.id if isinstance(node.value, ast.Name) else ""
    allowed = (module == "contr" and node.attr in _CONTRASTS) or (
        module == "np" and not node.attr.startswith("_") and isinstance(getattr(np, node.attr, None), np.ufunc)
    )
    if not allowed and not (module == "np" and node.attr in ("where", "clip", "pi")):
        raise ValueError(
            f"{expression!r} in the formula asks for {ast.unparse(node)}, which is no elementwise function of NumPy "
            "and no contrast; make a column of it first"
        )


def _column(name: str, columns: list[str], known: Iterable[str] = ()) -> str:
    if name in columns:
        return name
    near = difflib.get_close_matches(name, [*columns, *known], 1)
    shown = ", ".join(map(repr, columns[:20])) + ", ..." * (len(columns) > 20)
    raise ValueError(
        f"there is no column {name!r} in the frame" + (f"; is it {near[0]!r}?" if near else f", which has {shown}")
    )


def _plain(text: str) -> str:
    """A message without the marks that formulaic puts around what is wrong."""
    return re.sub(r"[⧛⧚]|\x1b?\[\d*;?\d*m", "", text)


# Columns of x ---------------------------------------------------------------------------------------------------------


class Matrix(NamedTuple):
    """What a side of a formula makes of a frame: `values` (n, q), their `names`, the `terms` with the places of theirs,
    and the state of what was found: `levels` and `states`, as a `Design` has them.
    """

    values: np.ndarray
    names: tuple[str, ...]
    terms: tuple[Term, ...]
    levels: dict[str, list[Any]]
    states: dict[str, Any]


def matrix_of(side: Any, table: Any, levels: dict[str, list[Any]], states: dict[str, Any]) -> Matrix:
    """The columns that a side of a formula makes of a table, by the levels and states that were found before."""
    from formulaic import ModelSpec
    from formulaic.errors import DataMismatchWarning, FormulaicError
    from formulaic.materializers import PandasMaterializer
    from formulaic.parser.types import Factor

    known = {expr: (Factor.Kind.CATEGORICAL, {"categories": list(found)}) for expr, found in levels.items()}
    spec = ModelSpec(formula=side, encoder_state=known, transform_state=_unpacked(states), na_action="ignore")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # log(0): it is looked at when it is there
            warnings.simplefilter("error", DataMismatchWarning)
            made = PandasMaterializer(table, context=functions()).get_model_matrix(spec, output="numpy")
    except (FormulaicError, DataMismatchWarning, ValueError, TypeError) as error:
        raise ValueError(f"the formula cannot be used on this frame: {' '.join(_plain(str(error)).split())}") from None
    spec = made.model_spec
    return Matrix(
        values=np.asarray(made),
        names=tuple(map(str, spec.column_names)),
        terms=tuple(Term(str(term), tuple(places)) for term, places in spec.term_indices.items()),
        levels={e: state["categories"] for e, (_, state) in spec.encoder_state.items() if "categories" in state},
        states=_packed(spec.transform_state),
    )


def in_floats(factors: list[Any], table: Any) -> Any:
    """The table, its integers as floats but for those that are levels: NumPy's integers overflow in silence."""
    found = [(factor, names_of(factor, table.columns)) for factor in factors]
    names = [name for factor, its in found if not _is_category(factor, its) for name in its]
    return table.astype({name: np.float64 for name in names if table[name].dtype.kind in "iu"})


def _is_category(factor: Any, names: list[str]) -> bool:
    """Whether a factor is `C` of one column."""
    return len(names) == 1 and bool(re.match(rf"C\(\s*`?{re.escape(names[0])}`?\s*[,)]", factor.expr))


def check_levels(side: Any, table: Any, levels: dict[str, list[Any]]) -> None:
    """Raise for a level that was not there when the levels were found, of a factor that is one column."""
    import pandas as pd

    for factor in factors_of(side):
        names = names_of(factor, table.columns)
        if factor.expr not in levels or not (_is_category(factor, names) or factor.expr == names[0]):
            continue  # of another expression formulaic tells
        found = pd.unique(table[names[0]]).tolist()
        strange = [level for level in found if level not in levels[factor.expr]]
        if strange:
            row = int(np.argmax((table[names[0]] == strange[0]).to_numpy()))
            shown = ", ".join(map(repr, levels[factor.expr][:12])) + ", ..." * (len(levels[factor.expr]) > 12)
            raise ValueError(
                f"column {names[0]!r} has {strange[0]!r} in row {row}, a level that was not seen in the fit; it had "
                f"{shown}"
            )


def _packed(state: Any) -> Any:
    """What functions such as `poly` keep, as JSON holds it."""
    if isinstance(state, Mapping):
        return {"dict": [[_packed(key), _packed(value)] for key, value in state.items()]}
    if isinstance(state, np.ndarray):
        return {"array": state.tolist()}
    if isinstance(state, list | tuple):
        return [_packed(value) for value in state]
    if isinstance(state, np.generic):
        return state.item()
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(f"the formula keeps a {type(state).__name__}, which no file could hold; make a column of it first")


def _unpacked(state: Any) -> Any:
    if isinstance(state, dict) and "dict" in state:
        return {_unpacked(key): _unpacked(value) for key, value in state["dict"]}
    if isinstance(state, dict):
        return np.asarray(state["array"]) if "array" in state else {}
    return [_unpacked(value) for value in state] if isinstance(state, list) else state
