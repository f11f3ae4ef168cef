"""Every sentence that labkit refuses or warns with, collected from its source: each says what to do next."""

import ast
import re
from pathlib import Path

import labkit
from labkit.datasets import image_files

import pytest

ROOT = Path(labkit.__file__).parent
# What a person can do, as the beginning of a clause.
_DO = """add ask attack build call check choose complete convert count delete divide enlarge fit free give import
    evaluate export install leave let learn load make mend move name open pack pass read reinstall reload remove
    replace restore return run save say see set shrink start stay store train try type unset use wait write""".split()
_IMPERATIVE = re.compile(rf"(?:^|[;:,] |\b(?:or|and|then) )(?:{'|'.join(_DO)})\b")
# What can be typed: a flag, a command, a variable, a keyword or a call.
_TYPED = re.compile(r"--[a-z…]|`[^`]+`|\$[A-Z]{3}|\b[A-Z]{2,}_[A-Z]+\b|\b\w+=|\b\w+\([^)]*\)")
_ALLOWED = re.compile(r"\bmust be .+[,;] got |choose from|; there (?:is|are) |the known \w+ are|; it has ")
_DONE = re.compile(
    r"starting anew|is built again|waiting for it|is left out|starting a new one|converted|compiling|failed in …$"
)  # by labkit


def texts(node: ast.AST, scope: dict[str, list[ast.AST]], deep: int = 0) -> list[str]:
    """All that an expression may say; what only the run knows is {…}, with its source between the braces."""
    if isinstance(node, ast.Constant):
        return [] if node.value is None else [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            more = texts(part, scope, deep)
            found = [a + b for a in found for b in more][:40]
        return found
    if isinstance(node, ast.FormattedValue):
        return texts(node.value, scope, deep)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        left, right = texts(node.left, scope, deep), texts(node.right, scope, deep)
        return [a + b for a in left for b in right] if isinstance(node.op, ast.Add) else [*left, ""]
    if isinstance(node, ast.IfExp):
        return texts(node.body, scope, deep) + texts(node.orelse, scope, deep)
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in texts(value, scope, deep)]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("tell"):
        return texts(node.args[0], scope, deep)
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("to_set"):
        name, *rest = [argument.value if isinstance(argument, ast.Constant) else "…" for argument in node.args]
        instead = [text for word in node.keywords for text in texts(word.value, scope, deep)]
        return [f"--{name} {rest[0]}", *instead]
    name = ast.unparse(node.func if isinstance(node, ast.Call) else node)
    if name in scope and deep < 4:
        return [text for value in scope[name] for text in texts(value, scope, deep + 1)]
    return ["{" + re.sub("[{}]", "", ast.unparse(node)) + "}"]


def bound(tree: ast.AST) -> dict[str, list[ast.AST]]:
    """What each name stands for in a piece of source: its values, and what a function returns."""
    found: dict[str, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.NamedExpr)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            pairs = [(target, node.value) for target in targets]
            if isinstance(targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = [*zip(targets[0].elts, node.value.elts, strict=False)]
            for target, value in pairs:
                if isinstance(value, (ast.Constant, ast.JoinedStr, ast.BinOp, ast.IfExp, ast.Call)):
                    found.setdefault(ast.unparse(target), []).append(value)
        if isinstance(node, ast.FunctionDef):
            returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value]
            found.setdefault(node.name, []).extend(
                value for value in returned if isinstance(value, (ast.Constant, ast.JoinedStr)) and not _none(value)
            )
    return found


def _none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, str)


def collected() -> list[tuple[str, str, bool]]:
    """Each message: where it stands, what it says, and whether it is a warning (labkit goes on)."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        module = {name: values for name, values in bound(tree).items() if name.startswith("_")}
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = ast.unparse(node.func)
            raised = name.rpartition(".")[2] in ("InputError", "LabError") or name.endswith("parser.error")
            to_us = any(word.arg == "file" and ast.unparse(word.value) == "sys.stderr" for word in node.keywords)
            if not (raised or name == "warnings.warn" or (name == "print" and to_us)):
                continue
            around = [f for f in functions if f.lineno <= node.lineno <= f.end_lineno]
            inner = bound(max(around, key=lambda f: f.lineno)) if around else {}
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            found += [(place, text, not raised) for text in dict.fromkeys(texts(node.args[0], module | inner))]
    return found


MESSAGES = collected()


def says_what_to_do(text: str, warning: bool) -> bool:
    if re.fullmatch(r"(labkit: )?\{[^{}]*\}", text):
        return True  # a sentence that was judged where it is made
    text = re.sub(r"\{[^{}]*\}", "…", text.replace("{LAYOUT}", image_files.LAYOUT))
    return any(rule.search(text) for rule in (_IMPERATIVE, _TYPED, _ALLOWED)) or bool(warning and _DONE.search(text))


def test_messages_are_found():
    assert len(MESSAGES) > 150 and any("no numbered notebooks" in text for _, text, _ in MESSAGES)
    assert any("projects into" in text for _, text, _ in MESSAGES)  # of a function that returns it


def test_every_message_says_what_to_do():
    assert [f"{place}  {text}" for place, text, warning in MESSAGES if not says_what_to_do(text, warning)] == []


@pytest.mark.parametrize(
    "text",
    ["the images have 3 channels", "training needs two images, got 1", "x is wrong; it should not be", "cannot do that",
     "the network was built for 3 classes, the labels go up to 5"],
)  # fmt: skip
def test_the_judge_refuses_what_only_complains(text):
    assert not says_what_to_do(text, warning=False) and not says_what_to_do(text, warning=True)


def test_no_message_shows_where_labkit_is_installed_nor_an_error_of_the_system_as_it_is():
    inside = re.compile(
        r"\{[^{}]*(?:__file__|FOLDER|NOTEBOOKS|_HOME|sys\.prefix|traceback|format_exc)[^{}]*\}|\{error\}"
    )
    assert [f"{place}  {text}" for place, text, _ in MESSAGES if inside.search(text)] == []


def test_no_message_is_more_than_a_sentence_or_two():
    assert [text for _, text, _ in MESSAGES if "\n" in text or text.count(". ") > 1 or len(text) > 330] == []
