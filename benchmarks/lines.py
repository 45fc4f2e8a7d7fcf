"""Lines of code: physical lines that hold a token, without docstrings and comments, of each package."""

import ast
import collections
import io
import json
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
BAR = 10_000
BLANK = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def lines_of_code(text: str) -> int:
    """The number of lines of a file that hold code."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                documented.update(range(first.lineno, first.end_lineno + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in BLANK:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - documented)


def main() -> None:
    found: collections.Counter[str] = collections.Counter()
    for path in [*ROOT.glob("micro_lit/**/*.py"), *ROOT.glob("hydra_plugins/**/*.py")]:
        found["/".join(path.relative_to(ROOT).parts[:2])] += lines_of_code(path.read_text(encoding="utf-8"))
    total = found.total()
    largest = ", ".join(f"{name.split('/')[-1]} {number:,}" for name, number in found.most_common(5))
    row = {
        "what": "lines of code in micro_lit and hydra_plugins",
        "measured": f"{total:,} ({largest})",
        "bar": f"<= {BAR:,}",
        "met": total <= BAR,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
