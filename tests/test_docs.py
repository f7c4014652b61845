"""What the documentation shows exists: imports, names, commands, options, pages."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import shlex

import pytest
import typer.main

from clustr_keras.cli import app

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
PACKAGES = (
    "",
    "attacks",
    "backbones",
    "bulk",
    "certificates",
    "consistency",
    "data",
    "evaluation",
    "lipschitz",
    "losses",
    "serving",
    "training",
    "tuning",
)


def blocks(language, pages=PAGES):
    return [
        (str(page.relative_to(ROOT)), body)
        for page in pages
        for found, body in FENCE.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]


def command_lines():
    bodies = [(page, re.sub(r"\\\n\s*", " ", body)) for page, body in blocks("")]
    lines = [(page, line) for page, body in bodies for line in body.splitlines()]
    inline = [
        (str(page.relative_to(ROOT)), code)
        for page in PAGES
        for code in re.findall(r"`(clustr [^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))
    ]
    return [(page, line) for page, line in lines + inline if re.match(r"clustr [a-z]", line)]


@functools.cache
def known_commands():
    return typer.main.get_command(app).commands


def test_the_python_blocks_compile_and_what_they_import_from_us_exists():
    shown = blocks("python")
    assert len(shown) > 15
    for page, body in shown:
        for node in ast.walk(ast.parse(body, filename=page)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "clustr_keras":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page}: {node.module} has no {alias.name}"


def test_the_papers_training_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [(page, body)] = blocks("python", [ROOT / "docs/how-to/paper.md"])
    exec(compile(body, page, "exec"), {})
    assert float(capsys.readouterr().out.split()[-1]) > 0.8


def test_the_commands_shown_exist_with_their_options():
    lines = command_lines()
    assert len(lines) > 20
    for page, line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        assert name in known_commands(), f"{page}: there is no command {name!r}"
        options = {option for parameter in known_commands()[name].params for option in parameter.opts}
        given = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
        assert set(given) <= options | {"--help"}, f"{page}: {line}"


def test_every_command_is_in_the_table_of_commands():
    table = (ROOT / "docs/api/commands.md").read_text(encoding="utf-8")
    assert [name for name in known_commands() if f"| `clustr {name}` |" not in table] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_export_is_in_the_reference(package):
    documented = {name for page in PAGES for name in re.findall(r"^::: (\S+)", page.read_text(), flags=re.MULTILINE)}
    # Where a function has the name of its module, the full path tells the two apart.
    documented |= {re.sub(r"\.(\w+)\.\1$", r".\1", name) for name in documented}
    # What is loaded on first use from a module of its own may be there under that one's name.
    documented |= {re.sub(r"^(clustr_keras\.bulk)\.\w+\.", r"\1.", name) for name in documented}
    module = importlib.import_module(f"clustr_keras.{package}".rstrip("."))
    # Submodules are exported for the bounds that they register; bulk's function needs Apache Beam to be looked at.
    names = [name for name in module.__all__ if package == "bulk" or not inspect.ismodule(getattr(module, name))]
    exported = {f"{module.__name__}.{name}" for name in names}
    assert exported - documented == set(), f"add these to docs/api/{package or 'index'}.md"


def test_every_page_is_in_the_navigation_and_every_link_leads_to_a_page():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES]
    assert set(re.findall(r"[\w/-]+\.md", navigation)) == set(pages)
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"
