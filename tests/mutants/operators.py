"""Mutants of a source file: small changes of its text, each of which a test should notice.

They are found in the syntax tree and applied to lines. What only a reader sees is left alone: annotations, decorators, imports,
messages (`raise`, f-strings, the log). So is what says how the work is done and not what comes of it: the keywords of `IDLE`, and
numbers of `LARGE` or more, the sizes of its pieces.
"""

import ast
import dataclasses
import itertools
import re
from collections.abc import Iterator

SWAPS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is", "in": "not in"}
SWAPS |= {
    "not in": "in",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "//": "%",
    "%": "//",
    "&": "|",
    "|": "&",
    "and": "or",
    "or": "and",
}
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
SYMBOL = re.compile(r"is\s+not|not\s+in|//|[<>=!]=|[<>+\-*/%&|]|\b(?:is|in|and|or)\b")
IDLE = {"strict", "non_blocking", "device", "sorted", "batch", "vectorized"}
LARGE = 100
TOLD = {"log", "logger", "logging", "warnings"}
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
LEFT_ALONE = (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Assert)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A change of whole lines.

    Attributes:
        file: relative to the root.
        function: qualified name of the innermost function or class around it; empty at the module's top.
        operator: what was done.
        old, new: the lines before and after, with their indentation.
        occurrence: which of several equal places in the function, from 0.
        equivalent: why no test can tell it from the original; empty where one can.
    """

    file: str
    function: str
    operator: str
    old: str
    new: str
    occurrence: int = 0
    equivalent: str = ""

    def apply(self, source: str) -> str | None:
        """Return the mutated source; None where its lines are gone."""
        places = _places(source, self.function, self.old)
        if self.occurrence >= len(places):
            return None
        lines, start = source.split("\n"), places[self.occurrence]
        return "\n".join([*lines[:start], *self.new.split("\n"), *lines[start + self.old.count("\n") + 1 :]])

    def __str__(self) -> str:
        old, new = (re.sub(r"\s+", " ", text.strip()) for text in (self.old, self.new))
        return f"{self.file}:{self.function or 'top'}: {self.operator}: {old} -> {new}"


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of a file that are syntactically right, in the order of their places."""
    text, found = _Text(source), {}
    for function, operator, start, end, new in _edits(ast.parse(source), text, ""):
        first, last = text.line(start), text.line(max(start, end - 1))
        old = "\n".join(text.lines[first : last + 1])
        left, right = text.starts[first], text.starts[last + 1] - 1
        changed = (text.data[left:start] + new.encode() + text.data[end:right]).decode()
        mutant = Mutant(file, function, operator, old, changed, _places(source, function, old).index(first))
        try:
            ast.parse(mutant.apply(source))
        except SyntaxError:
            continue
        found.setdefault((first, changed), mutant)
    return list(found.values())


class _Text:
    """A source by byte offsets, as the syntax tree counts columns."""

    def __init__(self, source: str):
        self.data, self.lines = source.encode(), source.split("\n")
        self.starts = [0, *itertools.accumulate(len(line.encode()) + 1 for line in self.lines)]

    def line(self, offset: int) -> int:
        return next(i for i, start in enumerate(self.starts) if start > offset) - 1

    def span(self, node: ast.AST) -> tuple[int, int]:
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.AST) -> str:
        return self.data[slice(*self.span(node))].decode()


def _places(source: str, function: str, old: str) -> list[int]:
    """Numbers, from 0, of the lines of a function at which these lines stand."""
    lines, wanted, first, last = source.split("\n"), old.split("\n"), 0, None
    if function:
        node = ast.parse(source)
        for name in function.split("."):
            node = next((n for n in ast.walk(node) if isinstance(n, SCOPES) and n.name == name), None)
            if node is None:
                return []
        first, last = node.lineno - 1, node.end_lineno
    return [i for i in range(first, len(lines[:last])) if lines[i : i + len(wanted)] == wanted]


def _edits(node: ast.AST, text: _Text, scope: str) -> Iterator[tuple[str, str, int, int, str]]:
    """Yield (function, operator, start, end, replacement) of every change below a node."""
    if isinstance(node, LEFT_ALONE) or getattr(node, "name", "") == "__repr__":
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in text.of(node.test):
        return
    if isinstance(node, ast.Call) and text.of(node.func).partition(".")[0] in TOLD:
        return
    if isinstance(node, SCOPES):
        scope = f"{scope}.{node.name}".lstrip(".")
    for operator, start, end, new in _edits_of(node, text):
        yield scope, operator, start, end, new
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or (isinstance(node, ast.keyword) and node.arg in IDLE):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _edits(child, text, scope)


def _edits_of(node: ast.AST, text: _Text) -> Iterator[tuple[str, int, int, str]]:
    match node:
        case ast.Compare():
            yield from _swaps("comparison", [node.left, *node.comparators], text)
        case ast.BinOp():
            yield from _swaps("arithmetic", [node.left, node.right], text)
        case ast.BoolOp():
            yield from _swaps("and/or", node.values, text)
        case ast.UnaryOp(operand=operand):
            yield "unary dropped", *text.span(node), text.of(operand)
        case ast.Constant(value=bool() as value):
            yield "constant", *text.span(node), str(not value)
        case ast.Constant(value=int() | float() as value) if value < LARGE:
            yield "constant", *text.span(node), repr(value + 1)
        case ast.Slice():
            for bound in filter(None, (node.lower, node.upper)):
                yield "bound dropped", *text.span(bound), ""
        case ast.Expr(value=ast.Call(func=function)) if text.of(function).partition(".")[0] not in TOLD:
            yield "statement deleted", *text.span(node), "pass"
        case ast.AugAssign():
            yield "statement deleted", *text.span(node), "pass"
        case ast.Break() | ast.Continue():
            yield "jump", *text.span(node), "continue" if isinstance(node, ast.Break) else "break"
        case ast.Call():
            yield from _edits_of_call(node, text)
        case ast.FunctionDef(returns=ast.Name(id="bool")):
            for value in (n.value for n in ast.walk(node) if isinstance(n, ast.Return)):
                yield from _negated("return negated", value, text)
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield from _negated("condition negated", node.test, text)
    for condition in getattr(node, "ifs", ()):
        yield from _negated("condition negated", condition, text)


def _swaps(operator: str, operands: list[ast.AST], text: _Text) -> Iterator[tuple[str, int, int, str]]:
    for left, right in itertools.pairwise(operands):
        start, end = text.span(left)[1], text.span(right)[0]
        between = text.data[start:end].decode()
        symbol = SYMBOL.search(between)
        if symbol and "#" not in between and between.strip("() \n") in SWAPS:
            yield operator, start + symbol.start(), start + symbol.end(), SWAPS[re.sub(r"\s+", " ", symbol[0])]


def _negated(operator: str, condition: ast.AST, text: _Text) -> Iterator[tuple[str, int, int, str]]:
    """Negate a condition, unless another operator does the same to it."""
    swapped = isinstance(condition, ast.Compare) and not isinstance(condition.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    if not swapped and not isinstance(condition, ast.Constant | ast.UnaryOp):
        yield operator, *text.span(condition), f"not ({text.of(condition)})"


def _edits_of_call(node: ast.Call, text: _Text) -> Iterator[tuple[str, int, int, str]]:
    name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
    if name in NAMES:
        end = text.span(node.func)[1]
        yield "min/max, any/all", end - len(name), end, NAMES[name]
    if name[:1].isupper():  # a class: its keywords are fields without a default
        return
    arguments = sorted([*node.args, *node.keywords], key=text.span)
    for i, argument in enumerate(arguments):
        if isinstance(argument, ast.keyword) and argument.arg and argument.arg not in IDLE:
            start, end = text.span(argument)
            if i:
                start = text.span(arguments[i - 1])[1]
            elif len(arguments) > 1:
                end = text.span(arguments[1])[0]
            yield "keyword removed", start, end, ""
