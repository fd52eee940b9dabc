"""`gem experts fit-router`, on a small data folder."""

import json

import pytest
from click.testing import CliRunner

from gem_scar.cli import fit_router
from gem_scar.fitted import read_fitted
from gemcore.errors import GemError, UsageError


@pytest.fixture
def data(tmp_path, text):
    """Two benchmarks for each of two domains, and one of a domain without an expert."""
    root = tmp_path / "data"
    for name, domain in [
        ("a", "code"),
        ("b", "code"),
        ("c", "law"),
        ("d", "law"),
        ("e", "medicine"),
        ("f", "none"),
    ]:
        folder = root / domain / name
        folder.mkdir(parents=True)
        items = [
            {
                "id": f"{name}-{i}",
                "task_type": "generation_qa",
                "question": text(domain, f"{name}{i}"),
                "answer": "1",
            }
            for i in range(8)
        ]
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / "train.jsonl").write_text(lines)
        (folder / "test.jsonl").write_text(lines)
        (folder / "SOURCE.json").write_text(
            json.dumps({"task_type": "generation_qa", "license": "MIT"})
        )
    return root


def run(*words):
    result = CliRunner().invoke(fit_router, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_fits_and_says_what_came_out(host, folder, data):
    result = run(
        "--router", "scar", "--experts", folder, "--data", data, "--steps", 20, "--layer", 1
    )
    assert result.exit_code == 0, result.output
    assert "names the right expert" in result.output
    fitted = read_fitted(folder, "scar")
    assert fitted.experts == ("code", "law", "medicine")
    assert fitted.settings["layer"] == 1
    assert fitted.settings["options"]["steps"] == 20


def test_the_encoder_is_fitted_where_it_is_asked_for(host, folder, data, with_encoder):
    words = ("--experts", folder, "--data", data, "--steps", 20, "--layer", 1)
    result = run(*words, "--prior", "encoder")
    assert result.exit_code == 0, result.output
    assert "with the encoder: the prior names" in result.output
    assert read_fitted(folder, "scar").settings["encoder"]["model"] == with_encoder.digest
    with pytest.raises(UsageError, match="--prior is for router 'scar': router 'xlora' has none"):
        run("--router", "xlora", *words, "--prior", "encoder")
    with pytest.raises(UsageError, match="--familiar is for router 'scar': router 'xlora' has"):
        run("--router", "xlora", *words, "--familiar", 0.8)


def test_any_router_can_be_fitted(host, folder, data):
    result = run("--router", "xlora", "--experts", folder, "--data", data, "--layer", 1)
    assert result.exit_code == 0, result.output
    assert read_fitted(folder, "xlora").tensors["weight"].shape == (3, 64)
    result = run("--router", "arrow", "--experts", folder, "--data", data)
    assert result.output.strip().endswith("nothing to learn")


def test_wrong_words_are_one_sentence(host, folder, data, tmp_path):
    with pytest.raises(UsageError, match="unknown benchmark 'aa'"):
        run("--experts", folder, "--data", data, "--exclude", "aa")
    with pytest.raises(UsageError, match="unknown router 'scra': did you mean 'scar'"):
        run("--router", "scra", "--experts", folder, "--data", data)
    with pytest.raises(GemError, match="does not exist"):
        run("--experts", folder, "--data", tmp_path / "nowhere")


def test_only_data_that_may_be_passed_on_is_read_unless_all_is_asked_for(host, folder, data):
    (data / "code" / "b" / "SOURCE.json").write_text(
        json.dumps({"task_type": "generation_qa", "license": "CC BY-NC 4.0"})
    )
    words = ["--router", "scar", "--experts", folder, "--data", data, "--steps", 5, "--layer", 1]
    run(*words)
    kept = read_fitted(folder, "scar").settings["data"]
    licences = {source["name"]: source["licence"] for source in kept}
    written = {name for name in licences if name.startswith("prompts/")}
    assert {"prompts/everyday.txt", "prompts/law.txt"} <= written
    assert licences == {**dict.fromkeys("acdef", "MIT"), **dict.fromkeys(written, "Apache-2.0")}
    run(*words, "--licences", "all")
    everything = read_fitted(folder, "scar").settings["data"]
    assert {"name": "b", "licence": "CC BY-NC 4.0", "items": 8} in everything
    assert len(everything) == 6 + len(written)
