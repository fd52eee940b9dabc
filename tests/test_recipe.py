import inspect

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import UsageError
from gemcore.options import PluginChoice
from gemcore.recipe import RUN_OPTIONS, Recipe, RunSettings

FULL = """
model = "models/my.gguf"
router = {name = "scar", max_experts = 2, top_p = 0.9}
quantizer = "q8-g32"
target = {name = "host"}

[run]
max_tokens = 64
temperature = 1
system = "Be brief."
chat = false
"""


@pytest.fixture
def recipe_of(tmp_path):
    def load(text):
        path = tmp_path / "gem.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Recipe.from_file(path)

    return load


def test_defaults():
    recipe = Recipe()
    assert (recipe.model, recipe.run) == ("smollm2-135m", RunSettings())
    assert [str(recipe.router), str(recipe.quantizer), str(recipe.target)] == [
        "none",
        "q4a-g32",
        "host",
    ]


def test_settings_and_their_options_agree():
    fields = {field.name: field.default for field in attrs.fields(RunSettings)}
    assert fields == {option.name: option.default for option in RUN_OPTIONS}
    assert all(option.help for option in RUN_OPTIONS)


def test_everything_comes_out_of_the_file(recipe_of):
    assert recipe_of(FULL) == Recipe(
        model="models/my.gguf",
        router=PluginChoice("scar", {"max_experts": 2, "top_p": 0.9}),
        quantizer="q8-g32",
        target="host",
        run=RunSettings(max_tokens=64, temperature=1.0, system="Be brief.", chat=False),
    )
    assert recipe_of("") == Recipe()


def test_the_cache_scheme_comes_from_the_file_or_is_given(recipe_of):
    recipe = recipe_of("kv_cache = 'q8'")
    assert recipe.kv_cache == recipe.with_changes(threads=2).kv_cache == "q8"
    assert recipe.with_changes(kv_cache="auto") == Recipe()
    with pytest.raises(UsageError, match="^unknown cache scheme 'q4': Available: auto, f16, q8$"):
        recipe.with_changes(kv_cache="q4")
    with pytest.raises(UsageError, match="'kv_cache' must be text, not a whole number"):
        recipe_of("kv_cache = 8")


def test_what_is_given_wins_and_none_is_not_given(recipe_of):
    changed = recipe_of(FULL).with_changes(
        router="none", max_tokens=5, seed=3, model=None, temperature=None, chat=True
    )
    assert changed.router == PluginChoice("none")
    assert changed.model == "models/my.gguf"
    assert changed.run == RunSettings(max_tokens=5, temperature=1.0, system="Be brief.", seed=3)


def test_words_given_for_a_number_are_read(recipe_of):
    assert recipe_of("").with_changes(top_p="0.5").run.top_p == 0.5


@given(st.integers(1, 10**6), st.floats(0, 100), st.none() | st.integers(0, 2**63 - 1))
def test_changes_hold_and_leave_the_rest(max_tokens, temperature, seed):
    run = Recipe().with_changes(max_tokens=max_tokens, temperature=temperature, seed=seed).run
    assert run == RunSettings(max_tokens=max_tokens, temperature=temperature, seed=seed)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("modle = 'x'", "unknown key 'modle': did you mean 'model'? Available: kv_cache, model, "),
        ("[run]\nmax_token = 3", "[run]: unknown key 'max_token': did you mean 'max_tokens'?"),
        ("temperature = 1", "unknown key 'temperature'"),
        ("model = 3", "'model' must be text or a table, not a whole number (3)"),
        ("router = true", "'router' must be text or a table, not true or false (True)"),
        ("router = {top_p = 1}", "'router' is a table without a name"),
        ("model = {name = 'x', size = 2}", "a model takes no options, but 'size' is given"),
        ("model = ' '", "'model' is empty"),
        ("run = 3", "'run' must be a table, not a whole number (3)"),
        ("[run]\nmax_tokens = '5'", "'max_tokens' must be a whole number, not text ('5')"),
        ("[run]\nmax_tokens = 5.0", "'max_tokens' is 5.0, which is a number, not a whole number"),
        ("[run]\nchat = 'yes'", "'chat' must be true or false, not text ('yes')"),
        ("[run]\nsystem = 3", "'system' is 3, which is a whole number, not text"),
        ("[run]\ntop_p = 0", "'top_p' is 0, which is not above 0"),
        ("[run]\ntemperature = nan", "'temperature' is nan, which is not a finite number"),
        ("[run]\ntemperature = 1979-05-27", "which is date, not a number"),
        ("model = 'a'\nmodel = 'b'\n", "is not valid TOML: Cannot overwrite a value (at line 2"),
        ("\nmodel =\n", "is not valid TOML: Invalid value (at line 2"),
        (b"model = '\xff'", "is not UTF-8 text"),
        ("a = " + "[" * 5000, "is nested too deeply"),
    ],
)
def test_a_wrong_file_gets_a_sentence_that_names_it(recipe_of, text, problem):
    with pytest.raises(UsageError) as caught:
        recipe_of(text)
    assert "gem.toml" in str(caught.value)
    assert problem in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the recipe .*: No such file"):
        Recipe.from_file(tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"cannot read the recipe .*: Is a directory"):
        Recipe.from_file(tmp_path)


def test_wrong_changes_are_refused():
    with pytest.raises(UsageError, match="unknown key 'max_token': did you mean 'max_tokens'"):
        Recipe().with_changes(max_token=3)
    with pytest.raises(UsageError, match="'top_k' is -1, which is below the minimum 0"):
        Recipe().with_changes(top_k=-1)
    with pytest.raises(UsageError, match="'router' must be text or a table"):
        Recipe().with_changes(router=3)


def test_settings_made_in_code_are_checked_too():
    with pytest.raises(UsageError, match="run setting 'max_tokens' is 0, which is below"):
        RunSettings(max_tokens=0)
    with pytest.raises(UsageError, match="run setting 'chat' is None"):
        RunSettings(chat=None)


def test_the_example_of_the_module_is_a_valid_recipe(recipe_of):
    from gemcore import recipe

    example = inspect.getdoc(recipe).split(":\n\n", 1)[1]
    loaded = recipe_of(inspect.cleandoc("\n" + example))
    assert loaded.run == RunSettings(max_tokens=64, temperature=0.7)
