"""The commands: what they print and write, and how they refuse."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from gem_tradeoff.cli import compare_command, tradeoff, write_text
from gemcore.errors import FormatError, GemError, UsageError


def run(*words, command=tradeoff, width=80):
    """Run a command and give its output; what it raises is raised here."""
    environment = {"COLUMNS": str(width), "NO_COLOR": "1"}
    result = CliRunner().invoke(command, [str(w) for w in words], env=environment)
    if result.exception:
        raise result.exception
    return result.output


def test_the_report_in_the_terminal(files):
    output = run(*files)
    assert "Tasks (score above chance, more is better)" in output
    assert "Held-out text (bits per byte, fewer are better)" in output
    lines = output.splitlines()
    row = next(line for line in lines if line.startswith("specialised for"))
    assert row.split() == ["specialised", "for", "healthcare", "law", "stem"]
    assert "> law" in output
    # In short lines where all measures fit in one, else one after the other.
    assert sum(line.split()[-4:] == ["DSI", "GG", "CDTR", "Forgetting"] for line in lines) == 1
    assert sum(line.split()[:2] == ["law", "DSI"] for line in lines) == 1
    assert "\x1b" not in output
    assert max(map(len, lines)) <= 80


def test_columns_are_numbered_where_names_do_not_fit(files):
    output = run(*files, width=40)
    assert "1 healthcare, 2 law, 3 stem" in output


def test_colours_where_a_terminal_shows_them(files):
    result = CliRunner().invoke(tradeoff, [str(f) for f in files], color=True)
    assert "\x1b[" in click.unstyle(result.output) + result.output
    assert click.unstyle(result.output) != result.output


def test_domains_may_be_given_in_two_ways(files, tmp_path, make):
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(make(1)))
    first = run(files[0], f"law={plain}", "--json", tmp_path / "a.json")
    assert first == run(files[0], plain, "--domain", "law", "--json", tmp_path / "b.json")
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["variants"]["text"]["models"][0]["specialised_for"] == "law"
    assert written == json.loads((tmp_path / "b.json").read_text())
    with pytest.raises(UsageError, match="does not say for which domain"):
        run(files[0], plain)
    with pytest.raises(UsageError, match="--domain is given 1 times for 2 specialised models"):
        run(files[0], plain, plain, "--domain", "law")
    with pytest.raises(UsageError, match="names another domain than --domain stem"):
        run(files[0], f"law={plain}", "--domain", "stem")


def test_a_file_name_may_hold_an_equals_sign(files, tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.json").write_text(json.dumps(make(1, own="law")))
    assert "specialised for law" in run(files[0], "a=b.json")
    assert "specialised for stem" in run(files[0], "stem=a=b.json")


def test_files_are_written(files, tmp_path):
    run(*files, "--html", tmp_path / "out.html", "--json", tmp_path / "out.json")
    assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["resamples"] == 2000
    assert {p.name for p in tmp_path.iterdir()} == {
        *(file.name for file in files),
        "out.html",
        "out.json",
    }


def test_the_same_numbers_every_time(files, tmp_path):
    for name in ("a", "b"):
        run(*files, "--json", tmp_path / name, "--resamples", "200")
    run(*files, "--json", tmp_path / "c", "--resamples", "200", "--seed", "1")
    contents = [(tmp_path / name).read_text() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]


def test_choices(files):
    output = run(*files, "--variant", "answer", "--domains", "law,stem", "--leave-out", "clauses")
    assert "Right answers (bits per byte" in output
    assert "Held-out" not in output
    assert "healthcare" not in output


def test_what_is_undefined_is_explained(tmp_path, make):
    tasks = {"law": {"guessed": ("acc", 0.5)}, "stem": {"sums": ("acc", 0.25)}}
    paths = [tmp_path / "base.json", tmp_path / "law.json"]
    for number, path in enumerate(paths):
        data = make(number, level=0.5, tasks=tasks, own="law" if number else None)
        path.write_text(json.dumps(data))
    output = run(*paths)
    assert output.count("undefined: score above chance on law") == 1


def test_wrong_files_end_in_a_sentence(files, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    with pytest.raises(FormatError, match="wrong.json: field 'results' is missing"):
        run(files[0], wrong)
    with pytest.raises(UsageError, match="no such file"):
        run(files[0], tmp_path / "none.json")


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(GemError, match="cannot write .*none/out.html: No such file"):
        write_text(tmp_path / "none" / "out.html", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(GemError, match="cannot write"):
        write_text(tmp_path / "folder", "")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_comparison(files, tmp_path):
    output = run(*files[:2], "--json", tmp_path / "out.json", command=compare_command)
    lines = output.splitlines()
    assert lines[0].split()[:4] == ["task", "metric", "before", "after"]
    assert any(line.startswith("corpus_law") and "better" in line for line in lines)
    assert "of 8 intervals exclude 0; of 8 about 0.4 would by chance alone" in output
    rows = json.loads((tmp_path / "out.json").read_text())
    assert {row["level"] for row in rows} == {"task", "domain"}
    assert rows[0]["difference"].keys() == {"value", "low", "high"}


def test_comparison_of_several_files_names_them(files):
    output = run(*files, command=compare_command)
    assert output.count(str(files[2])) == output.count(str(files[1])) == 8 + 6


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from gem_tradeoff.cli import tradeoff; import gem_tradeoff;"
        "list(gem_tradeoff.gem_metrics()); tradeoff(['--help'], standalone_mode=False);"
        "print(sorted({'torch', 'tvm', 'numpy', 'rich', 'jinja2'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "DOMAIN=" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
