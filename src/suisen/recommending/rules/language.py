"""The language of rules: comparisons of item columns with values and with what a request brings.

    in_stock == true and (age_limit is null or age_limit <= request.age)
    genre in ["Drama", "War"] or request.region in regions

    expression  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" expression ")" | comparison
    comparison  = operand ("==" | "!=" | "<" | "<=" | ">" | ">=") operand
                | operand [ "not" ] "in" (operand | "[" value { "," value } "]")
                | operand "is" [ "not" ] "null"
    operand     = column | "request" "." name | value
    value       = number | "text" | 'text' | true | false

Columns and names are words, or anything between backticks.  Texts become trees of the classes below; nothing of a rule
is ever executed.
"""

import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from suisen.errors import InputError

MOST_CHARACTERS, DEPTH = 4_000, 32
"""Of an expression; and of brackets and ``not`` in each other."""
Sign = Literal["==", "<", "<=", ">", ">=", "in"]
SIGNS: dict[str, Sign] = {"==": "==", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
WORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false", "request"})
"""Words of the language: a column of such a name stands between backticks."""
TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<quoted>`[^`]+`)
    | (?P<word>[^\W\d]\w*)
    | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,|\.)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Column:
    """A column of the item table."""

    name: str


@dataclass(frozen=True)
class Request:
    """What a request brings under a name."""

    name: str


@dataclass(frozen=True)
class Value:
    """A value that stands in the rule; a tuple only behind ``in``."""

    value: bool | int | float | str | tuple[bool | int | float | str, ...]


Operand = Column | Request | Value


@dataclass(frozen=True)
class Comparison:
    """``left sign right``."""

    left: Operand
    sign: Sign
    right: Operand


@dataclass(frozen=True)
class IsNull:
    """Whether a value is missing."""

    operand: Column | Request


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: "Expression"


@dataclass(frozen=True)
class And:
    """All parts."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True)
class Or:
    """At least one part."""

    parts: tuple["Expression", ...]


Expression = Comparison | IsNull | Not | And | Or


def parse(text: str, where: str) -> Expression:
    """The tree of an expression.  ``where`` opens the messages.  Raises InputError naming the place and the mend.

    >>> parse('price < 5 and shelf != "x"', "rule 'cheap'")  # doctest: +NORMALIZE_WHITESPACE
    And(parts=(Comparison(left=Column(name='price'), sign='<', right=Value(value=5)),
               Not(part=Comparison(left=Column(name='shelf'), sign='==', right=Value(value='x')))))
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{where}: an expression of {len(text):,} characters is above {MOST_CHARACTERS:,}; split it")
    return _Parser(text, where).whole()


def operands(tree: Expression) -> list[tuple[Operand, bool]]:
    """The operands of a tree, and whether each stands in ``is null``."""
    match tree:
        case Comparison(left, _, right):
            return [(left, False), (right, False)]
        case IsNull(operand):
            return [(operand, True)]
        case Not(part):
            return operands(part)
        case And(parts) | Or(parts):
            return [found for part in parts for found in operands(part)]


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int
    """Place of its first character, from 1."""


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        self.tokens, self.next, self.depth = self._read(), 0, 0

    def whole(self) -> Expression:
        tree = self._expression()
        if (token := self._peek()).kind != "end":
            self._fail(token, "and, or or the end")
        return tree

    # -- tokens -----------------------------------------------------------------------------------------------------

    def _read(self) -> list[_Token]:
        tokens, at, text = [], 0, self.text
        while text[at:].strip():
            found = TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                mend = "; write == to compare" if text[at] == "=" else ""
                raise InputError(f"{self.where}: {text!r}: {text[at]!r} at character {at + 1} says nothing here{mend}")
            tokens.append(_Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) + 1))
            at = found.end()
        return [*tokens, _Token("end", "the end", len(text) + 1)]

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _take(self) -> _Token:
        token = self._peek()
        self.next += token.kind != "end"
        return token

    def _accept(self, *texts: str) -> str:
        """Takes the next token where it is one of these words or signs; "" where it is not."""
        token = self._peek()
        if token.kind not in ("word", "sign") or token.text not in texts:
            return ""
        return self._take().text

    def _fail(self, token: _Token, wanted: str) -> NoReturn:
        found = token.text if token.kind == "end" else repr(token.text)
        raise InputError(f"{self.where}: {self.text!r}: {wanted} expected at character {token.at}, not {found}")

    # -- grammar ----------------------------------------------------------------------------------------------------

    def _expression(self) -> Expression:
        parts = [self._conjunction()]
        while self._accept("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Expression:
        parts = [self._negation()]
        while self._accept("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Expression:
        self.depth += 1
        if self.depth > DEPTH:
            raise InputError(f"{self.where}: brackets and not are nested deeper than {DEPTH}; split the rule")
        if self._accept("not"):
            tree: Expression = Not(self._negation())
        elif self._accept("("):
            tree = self._expression()
            if not self._accept(")"):
                self._fail(self._peek(), ")")
        else:
            tree = self._comparison()
        self.depth -= 1
        return tree

    def _comparison(self) -> Expression:
        begin = self._peek()
        left = self._operand()
        if self._accept("is"):
            negated = bool(self._accept("not"))
            if not self._accept("null"):
                self._fail(self._peek(), "null")
            if isinstance(left, Value):
                self._fail(begin, "a column or request.NAME")
            return Not(IsNull(left)) if negated else IsNull(left)
        if self._accept("not"):
            if not self._accept("in"):
                self._fail(self._peek(), "in")
            return Not(self._compared(left, "in", self._several(), begin))
        if self._accept("in"):
            return self._compared(left, "in", self._several(), begin)
        sign = self._accept(*SIGNS, "!=")
        if not sign:
            self._fail(self._peek(), "a comparison (==, !=, <, <=, >, >=, in, is null)")
        same = self._compared(left, SIGNS.get(sign, "=="), self._operand(), begin)
        return Not(same) if sign == "!=" else same

    def _compared(self, left: Operand, sign: Sign, right: Operand, begin: _Token) -> Comparison:
        if isinstance(left, Value) and isinstance(right, Value):
            self._fail(begin, "a column or request.NAME on one side of the comparison")
        return Comparison(left, sign, right)

    def _several(self) -> Operand:
        """What stands behind ``in``."""
        if not self._accept("["):
            token = self._peek()
            operand = self._operand()
            if isinstance(operand, Value):
                self._fail(token, "a list like [1, 2], a column or request.NAME")
            return operand
        values: list[bool | int | float | str] = []
        while not self._accept("]"):
            token = self._peek()
            operand = self._operand()
            if not isinstance(operand, Value) or isinstance(operand.value, tuple):
                self._fail(token, "a value")
            values.append(operand.value)
            if not self._accept(",") and self._peek().text != "]":
                self._fail(self._peek(), ", or ]")
        return Value(tuple(values))

    def _operand(self) -> Operand:
        token = self._take()
        if token.kind == "number":
            whole = re.fullmatch(r"-?\d+", token.text)
            return Value(int(token.text) if whole else float(token.text))
        if token.kind == "text":
            return Value(re.sub(r"\\(.)", r"\1", token.text[1:-1]))
        if token.kind == "quoted":
            return Column(token.text[1:-1])
        if token.kind == "word" and token.text in ("true", "false"):
            return Value(token.text == "true")
        if token.kind == "word" and token.text == "request":
            if not self._accept("."):
                self._fail(self._peek(), "a dot and a name, like request.age,")
            name = self._take()
            if name.kind not in ("word", "quoted"):
                self._fail(name, "a name")
            return Request(name.text.strip("`"))
        if token.kind != "word" or token.text in WORDS:
            self._fail(token, "a column, request.NAME or a value")
        return Column(token.text)
