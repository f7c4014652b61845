import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    assert len(BLOCKS) == 2
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert float(re.search(r"clean accuracy +([\d.]+)", printed)[1]) > 0.95
    assert float(re.search(r"certified accuracy at 0.3 +([\d.]+)", printed)[1]) > 0.8
    assert (tmp_path / "digits.keras").exists()


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text())
    assert len(links) > 10
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_every_command_shown_exists():
    from clustr_keras.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = re.findall(r"^clustr ([\w-]+)", README.read_text(), flags=re.MULTILINE)
    assert set(shown) <= known
    assert shown


def test_every_make_target_exists():
    makefile = README.with_name("Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", README.read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "coverage"} <= named
    assert named <= set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
