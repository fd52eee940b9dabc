"""`gem` among really installed plugins of every sort of trouble."""

import json

import pytest

SCHEMES = {
    "f16",
    "q2z-g32",
    "q2a-g64",
    "q3z-g32",
    "q3a-g32",
    "q3a-g64",
    "q3s-g32",
    "q3s-g64",
    "q4z-g32",
    "q4a-g32",
    "q4a-g64",
    "q4s-g32",
    "q4s-g64",
    "q5z-g32",
    "q5a-g32",
    "q5a-g64",
    "q5s-g32",
    "q5s-g64",
    "q6-g32",
    "q6-g64",
    "q8-g64",
}
BUILT_IN = {"none", "q8-g32", "host", "pypi", "local", "hub"} | SCHEMES
QUICK = [
    "gemcore",
    "gem-raises",
    "gem-needy",
    "gem-misspelt",
    "gem-claim-one",
    "gem-claim-two",
    "gem-claim-none",
    "gem-newer",
    "gem-chatty",
    "gem-wrong-record",
    "gem-commands",
]


@pytest.fixture(scope="module")
def listing(gem):
    """Every row of `gem plugins list --json`, with all plugins loaded, the slow one included."""
    done = gem("plugins", "list", "--json")
    return json.loads(done.stdout), done.stderr


def rows_of(listing, distribution):
    return [row for row in listing[0] if row["distribution"] == distribution]


def only_row(listing, distribution):
    (row,) = rows_of(listing, distribution)
    return row


def test_list_shows_all_that_is_built_in(listing):
    rows = rows_of(listing, "gemcore")
    assert {row["name"] for row in rows} >= BUILT_IN
    assert {row["status"] for row in rows} == {"active"}
    assert all(row["version"] for row in rows)
    assert all(row["load_ms"] >= 0 for row in rows if row["kind"] != "command")


def test_a_plugin_that_raises_is_listed_with_one_line_of_reason(listing):
    row = only_row(listing, "gem-raises")
    assert (row["name"], row["kind"], row["status"]) == ("gem_raises", None, "failed")
    expected = "it cannot be imported: RuntimeError: the moon is in the wrong phase"
    assert row["reason"] == expected


def test_a_missing_dependency_is_named(listing):
    row = only_row(listing, "gem-needy")
    assert row["status"] == "failed"
    assert "needs the module 'module_that_nobody_has', which is not installed" in row["reason"]


def test_a_misspelt_hook_is_found(listing):
    row = only_row(listing, "gem-misspelt")
    assert row["status"] == "failed"
    assert (
        row["reason"] == "it implements the unknown hook 'gem_router': did you mean 'gem_routers'?"
    )


def test_a_newer_hook_api_is_refused_with_both_numbers(listing):
    row = only_row(listing, "gem-newer")
    assert row["status"] == "failed"
    assert row["reason"].startswith("it needs hook API 99, but this GEM has 1")


def test_a_wrong_record_fails_the_whole_plugin(listing):
    row = only_row(listing, "gem-wrong-record")
    assert row["status"] == "failed"
    assert row["reason"] == "its gem_routers yields MetricRecord, not RouterRecord"


def test_what_a_plugin_prints_goes_to_stderr(listing):
    assert only_row(listing, "gem-chatty")["status"] == "active"
    assert listing[1].splitlines() == ["hello from the import", "hello from the hook"]


def test_load_time_of_a_slow_plugin_is_shown(listing):
    quantizer = next(row for row in rows_of(listing, "gem-slow") if row["kind"] == "quantizer")
    assert quantizer["status"] == "active"
    assert 2000 <= quantizer["load_ms"] < 60_000


def test_two_claims_of_one_name_are_both_listed_with_the_way_out(listing):
    one = next(row for row in rows_of(listing, "gem-claim-one") if row["kind"] == "router")
    two = next(row for row in rows_of(listing, "gem-claim-two") if row["kind"] == "router")
    assert one["name"] == two["name"] == "shared"
    assert one["reason"] == (
        "conflict: also claimed by gem-claim-two 2.0; write 'gem-claim-one/shared'"
    )
    assert two["reason"] == (
        "conflict: also claimed by gem-claim-one 1.0; write 'gem-claim-two/shared'"
    )


def test_a_claim_on_a_built_in_name_leaves_the_built_in_its_name(listing):
    own = next(row for row in rows_of(listing, "gemcore") if row["name"] == "none")
    assert own["reason"] == "conflict: also claimed by gem-claim-none 1.0; 'none' selects this one"
    assert only_row(listing, "gem-claim-none")["reason"].endswith("write 'gem-claim-none/none'")


def test_commands_are_listed_with_their_conflicts_and_never_loaded(listing):
    commands = {(r["distribution"], r["name"]): r for r in listing[0] if r["kind"] == "command"}
    assert commands["gem-commands", "greet"]["reason"] == ""
    assert "GEM's own command" in commands["gem-commands", "plugins"]["reason"]
    assert "gem-claim-two 2.0" in commands["gem-claim-one", "twice"]["reason"]
    assert {row["load_ms"] for row in commands.values()} == {None}


def test_the_table_has_the_same_rows_as_the_json(gem):
    plugins = ["gemcore", "gem-raises"]
    rows = json.loads(gem("plugins", "list", "--json", plugins=plugins).stdout)
    heading, *lines = gem("plugins", "list", plugins=plugins).stdout.splitlines()
    assert heading.split("  ")[0] == "NAME"
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    assert next(line for line in lines if "gem_raises" in line).endswith("in the wrong phase")


def test_no_plugins_and_gem_plugins_leave_the_others_unimported(gem):
    for done in (
        gem("--no-plugins", "plugins", "list", "--json"),
        gem("plugins", "list", "--json", plugins=["gemcore"]),
    ):
        assert done.stderr == ""
        rows = json.loads(done.stdout)
        assert {r["distribution"] for r in rows if r["status"] == "active"} == {"gemcore"}
        slow = next(row for row in rows if row["name"] == "gem_slow")
        assert (slow["status"], slow["load_ms"]) == ("disabled", None)


def test_help_names_the_commands_of_plugins_and_imports_no_plugin(gem):
    program = (
        "import sys\nfrom gemcore.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print([name for name in sys.modules if name.startswith('gem_')])"
    )
    done = gem.python(program)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "greet" in done.stdout
    assert "from gem-commands 1.0" in done.stdout
    assert "from gem-claim-one 1.0 and from gem-claim-two 2.0" in done.stdout


def test_a_plugin_command_runs_with_its_own_help(gem):
    done = gem("greet", "--loudly", plugins=QUICK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "HELLO\n", "")
    assert "Greet the user." in gem("greet", "--help", plugins=QUICK).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["refuse"], 7, "the shop is closed"),
        (["interrupt"], 130, "interrupted"),
        (["twice"], 2, "command 'twice' is claimed by gem-claim-one 1.0 and by gem-claim-two 2.0"),
        (["unloadable"], 1, "it needs the module 'module_that_nobody_has', which is not installed"),
        (["textual"], 1, "it is str, no click command"),
        (
            ["crash"],
            1,
            "unexpected error in plugin 'gem_commands' of gem-commands 1.0: KeyError: "
            "'no such key' (GEM_DEBUG=1 shows the traceback)",
        ),
        (["plugns"], 2, "unknown command 'plugns': did you mean 'plugins'?"),
        (["plugins", "show", "sharde"], 2, "unknown plugin 'sharde': did you mean 'shared'?"),
        (
            ["plugins", "show", "gem_newer"],
            1,
            "'gem_newer' of gem-newer 1.0 could not be loaded: it needs",
        ),
        (["plugins", "show", "slow"], 2, "is disabled: GEM_PLUGINS allows only"),
    ],
)
def test_failures_are_one_sentence_and_an_exit_code(gem, arguments, code, sentence):
    done = gem(*arguments, plugins=QUICK)
    complaint = [line for line in done.stderr.splitlines() if line and "hello from" not in line]
    assert done.returncode == code
    assert done.stdout == ""
    assert len(complaint) == 1
    assert complaint[0].startswith("gem: ")
    assert sentence in complaint[0]


def test_a_wrong_option_is_clicks_own_usage_error(gem):
    done = gem("plugins", "list", "--jsn", plugins=["gemcore"])
    assert done.returncode == 2
    assert "--json" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback_before_the_sentence(gem):
    done = gem("crash", plugins=QUICK, GEM_DEBUG="1")
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gem: unexpected error in plugin")


def test_a_closed_pipe_is_no_complaint(gem):
    done = gem.pipe_to_head("flood", plugins=["gem-commands"])
    assert done.stdout == "line 0\n"
    assert done.stderr == ""


def test_show_tells_all_of_a_record(gem):
    done = gem("plugins", "show", "gem-claim-one/shared", plugins=QUICK)
    assert "the first of two" in done.stdout
    for fact in (
        "gem-claim-one 1.0",
        "gem_claim_one:Router",
        "https://example.org/gem_claim_one",
        "experts",
        "also claimed by gem-claim-two 2.0",
    ):
        assert fact in done.stdout
    option = next(line for line in done.stdout.splitlines() if "breadth" in line)
    assert option.split() == ["width", "int", "2", "1", "to", "8", "breadth"]


def test_show_of_a_shared_name_shows_both_and_kind_narrows_it(gem):
    both = gem("plugins", "show", "shared", plugins=QUICK).stdout
    assert "the first of two" in both
    assert "the second of two" in both
    wrong = gem("plugins", "show", "shared", "--kind", "target", plugins=QUICK)
    assert wrong.returncode == 2
    assert "unknown target 'shared'" in wrong.stderr


def test_python_m_gemcore_and_a_bare_gem_show_help(gem):
    done = gem(plugins=["gemcore"])
    assert done.returncode == 0
    assert done.stdout == gem("-h", plugins=["gemcore"]).stdout
    assert gem("--version").stdout.startswith("gem ")
