"""A digest of the code that determines a run's result, and of nothing else."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from pipeline.common.digest import digest_of

PACKAGE = Path(__file__).resolve().parents[1]
COMPUTES = ("common", "data", "heads", "models", "other_sizes", "training", "run.py")
"""The rooms whose code takes part in a run's result, and the run itself."""
SAYS = ("require", "require_at_least", "require_image_size", "error")
"""Methods and functions that are given sentences for people."""


@functools.cache
def code_digest(package: Path = PACKAGE) -> str:
    """First 32 hexadecimal digits of the SHA-256 of what the code of a run does.

    It is taken from syntax trees, without comments, docstrings, log lines and the sentences of errors: what is said
    changes no result.

    Args:
        package: Directory of the package.
    """
    parts = []
    for name in COMPUTES:
        place = package / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            tree = _Silent().visit(ast.parse(path.read_bytes()))
            parts += [path.relative_to(package).as_posix(), ast.dump(tree)]
    return digest_of(*parts)


class _Silent(ast.NodeTransformer):
    """Takes out of a syntax tree what is only said."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not _is_text(statement)]  # type: ignore[attr-defined]
        return super().generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=kind, cause=None)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute | ast.Name):
            owner = getattr(getattr(call.func, "value", None), "id", None)
            if owner == "log":
                return None
            name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
            if name in SAYS:
                # Whether it holds is computed; the sentences are constants, which are left out.
                call.args = [argument for argument in call.args if not _is_sentence(argument)]
                call.keywords = []
        return self.generic_visit(node)


def _is_text(statement: ast.stmt) -> bool:
    """A docstring, or the description of an attribute or a constant."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _is_sentence(argument: ast.expr) -> bool:
    return isinstance(argument, ast.JoinedStr) or (
        isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    )
