"""`gem quantize`."""

import json

import pytest
from click.testing import CliRunner

from gem_hybrid import cli, divergence
from gem_hybrid.cli import quantize
from gemcore.errors import UsageError
from gemcore.models.layout import weight_units


@pytest.fixture
def run(host, text_file):
    """Runs the command on the tiny model with options of the quantizer."""

    def run(options, *words):
        whole = f"hybrid:{options},calibration={text_file},tokens=1024"
        result = CliRunner().invoke(quantize, ["tiny", "-q", whole, *map(str, words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_the_table_and_what_it_costs(run, tiny):
    result = run("bits=5")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["weight", "precision", "bytes", "KL", "reason"]
    units = [unit.name for unit in weight_units(tiny.config)]
    assert [line.split()[0] for line in lines[1 : len(units) + 1]] == units
    assert "expected KL" in result.stdout
    assert "measured KL" in result.stdout
    assert "9 weights quantized, 0 of them without loss, 0 skipped" in result.stdout


def test_json(run):
    found = json.loads(run("bits=5", "--json").stdout)
    assert found["bytes"] == sum(entry["bytes"] for entry in found["plan"]["entries"])
    assert found["measured"]["kl"] > 0
    assert found["report"]["bytes_after"] == found["bytes"]
    assert json.loads(run("bits=5", "--json", "--no-measure").stdout)["measured"] is None


def test_a_plan_is_written_and_used_again(run, tmp_path):
    path = tmp_path / "plan.toml"
    first = json.loads(run("bits=5", "--json", "-o", path).stdout)
    assert "# measured KL" in path.read_text()
    second = json.loads(run(f"plan={path}", "--json").stdout)
    assert second["bytes"] == first["bytes"]
    assert second["expected_kl"] is None
    assert second["measured"] == first["measured"]


def test_other_quantizers_can_be_looked_at(host, text_file, tmp_path):
    path = tmp_path / "plan.toml"
    words = ["tiny", "-q", "q4s-g32:head=q4s-g32", "-o", str(path), "--no-measure"]
    result = CliRunner().invoke(quantize, words)
    assert result.exit_code == 0, result.output
    assert '"embedding" = "q4s-g32"' in path.read_text()
    with pytest.raises(UsageError, match="--pareto needs the quantizer 'hybrid'"):
        CliRunner().invoke(
            quantize, ["tiny", "-q", "q8-g32", "--pareto", "x.html"], catch_exceptions=False
        )


def test_the_page_holds_all_points(run, tmp_path):
    path = tmp_path / "front.html"
    run("bits=5", "--pareto", path)
    page = path.read_text()
    for word in ("this plan, expected", "this plan, measured", "q4z-g32", "q8-g32", "<polyline"):
        assert word in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_is_stopped_leaves_a_whole_plan_or_none(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    path = tmp_path / "plan.toml"
    monkeypatch.setattr(divergence, "measure_divergence", interrupted)
    run("bits=5", "-o", path)
    assert "[weights]" in path.read_text()
    assert "measured" not in path.read_text()
    path.unlink()
    monkeypatch.setattr(cli, "_notes", interrupted)
    assert run("bits=5", "-o", path).exit_code != 0
    assert not path.exists()
    assert [p for p in tmp_path.rglob("*tmp*") if p.is_file()] == []


def test_strict(run, monkeypatch, host):
    from gemcore.models import sources
    from gemcore.testing import tiny_checkpoint, tiny_config

    narrow = tiny_checkpoint(tiny_config(hidden_size=48, context_length=256))
    monkeypatch.setattr(sources, "load_checkpoint", lambda *_: narrow)
    assert "skipped: embedding, not " in run("bits=14", "--no-measure").stdout
    with pytest.raises(UsageError, match="weights cannot be quantized as asked: embedding, not"):
        run("bits=14", "--strict")


def test_where_nothing_can_be_written_is_said_first(run, tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        run("bits=5", "-o", tmp_path / "none" / "plan.toml")
