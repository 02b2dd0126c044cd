"""Compositions as files: what is written rebuilds what was written, and what cannot be read says why."""

from __future__ import annotations

import enum
import inspect
import json
import tomllib
import typing
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import paracore
from paracore import recipes
from paracore.composition import KINDS
from paracore.errors import ConfigurationError, UnknownNameError, VersionWarning
from paracore.parts import AbsoluteChange, Hold, WarmStart
from paracore.plugins import Entry
from paracore.plugins.calls import options_of
from paracore.testing.given import SEEDS, cases
from paracore.testing.mixtures import NEEDS_A_TRAJECTORY, registered_mixture

FORMATS = st.sampled_from(["toml", "json"])
SAMPLERS = [entry.name for entry in paracore.registry.entries("sampler")]


def values(annotation: Any, default: Any) -> st.SearchStrategy[Any]:
    """Values near a default, or it."""
    if default is inspect.Parameter.empty:
        return st.nothing()
    near = st.just(default)
    kinds = typing.get_args(annotation) or (annotation,)
    if bool in kinds:
        near |= st.booleans()
    elif int in kinds:
        near |= st.integers(0, 5)
    elif float in kinds:
        near |= st.floats(0.0, 1e4) | st.integers(1, 3)
    return near


@st.composite
def parts(draw: st.DrawFn, kind: str) -> Any:
    """Any registered part with any options that it takes."""
    names = [entry for entry in paracore.registry.entries(kind) if entry.name != NEEDS_A_TRAJECTORY]
    entry: Entry = draw(st.sampled_from(names))
    options = {name: draw(values(*known)) for name, known in options_of(entry.factory).items()}
    try:
        return entry.make(**options)
    except ConfigurationError:
        return entry.make()


@st.composite
def compositions(draw: st.DrawFn) -> paracore.Composition:
    return paracore.Composition(
        **{kind: draw(parts(kind)) for kind in KINDS},
        window=draw(st.integers(1, 2**40)),
        tolerance=draw(st.floats(0, 1e300) | st.integers(0, 9)),
        output_form=draw(st.sampled_from(["auto", "network", "drift", "data"])),
        warmup=draw(st.integers(0, 99)),
        name=draw(st.text()),
    )


# -- round trips ---------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(compositions(), FORMATS)
def test_what_is_written_rebuilds_what_was_written(composition, format):
    text = recipes.dumps(composition, format)
    again = recipes.loads(text, format)
    assert isinstance(again, paracore.Engine)
    assert again.composition == composition
    assert repr(again.composition) == repr(composition)  # == takes 1 for 1.0 and for True
    assert recipes.dumps(again, format) == text


@settings(max_examples=10)
@given(cases(kinds=("flow", "ddim", "multistep"), max_steps=6), SEEDS, FORMATS, st.sampled_from([0.0, 1e-3, 0.3]))
def test_the_sampler_of_a_file_has_the_same_bits(case, seed, format, tolerance):
    sampler = registered_mixture(seed, case.problem, tolerance)
    assume(sampler is not None)
    again = recipes.loads(recipes.dumps(sampler, format), format)
    ours, theirs = (
        paracore.solve(s, case.problem, case.evaluator(jvp=True), raise_on_failure=False) for s in (sampler, again)
    )
    assert torch.equal(ours.sample.view(torch.uint8), theirs.sample.view(torch.uint8))
    assert ours.status == theirs.status
    assert (ours.evaluations == theirs.evaluations).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_preset_is_written_and_read(name, tmp_path: Path):
    for path in (tmp_path / "x.toml", tmp_path / "x.json"):
        paracore.save_sampler(name, path)
        assert repr(paracore.load_sampler(path)) == repr(paracore.sampler(name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.toml"]


@pytest.mark.parametrize(
    "call",
    ["chords(starts=(0, 3, 7), stop=residual)", "srds(blocks=4, window=2)", "parasolver(subintervals=4, window=3)"],
)
def test_samplers_that_are_no_composition_are_written_from_the_instance_too(call):
    made = paracore.sampler(call)
    text = recipes.dumps(made)
    assert tomllib.loads(text)["sampler"] == call.partition("(")[0]
    assert recipes.loads(text) == made
    assert recipes.loads(recipes.dumps(call)) == made


def test_a_sampler_that_cannot_be_asked_for_its_options_is_written_from_its_call():
    call = "deer(window=4, guess=hold)"
    with pytest.raises(ConfigurationError, match="give the call that made it"):
        recipes.dumps(paracore.sampler(call))
    assert repr(recipes.loads(recipes.dumps(call))) == repr(paracore.sampler(call))


def test_a_window_that_is_chosen_later_stays_open():
    text = recipes.dumps("ropa(window=auto, stopping='change(relative=0.1)')")
    data = tomllib.loads(text)
    assert data["window"] == "auto"
    assert data["stopping"] == "change(relative=0.1)"
    made = recipes.loads(text)
    assert made.make(4).composition == paracore.sampler("ropa", window=4, stopping="change(relative=0.1)").composition


class Halved(paracore.Engine):
    """An engine that is more than its composition."""


def test_what_is_more_than_its_composition_is_not_written_as_less():
    with pytest.raises(ConfigurationError, match="cannot be written: no registered preset builds it"):
        recipes.dumps(Halved(paracore.compose().composition))


# -- by hand -------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_the_default():
    made = recipes.loads("window = 4")
    assert made.composition == paracore.compose(window=4).composition


def test_parts_are_tables_or_strings():
    text = """
    name = "mine"
    jacobian = "secant(memory=3)"
    [stopping]
    name = "change"
    relative = 0.02
    """
    expected = paracore.compose(name="mine", jacobian="secant(memory=3)", stopping="change(relative=0.02)")
    assert recipes.loads(text).composition == expected.composition


def test_a_preset_takes_options_and_parts():
    text = """
    sampler = "picard(guess=hold)"
    window = 4
    stopping = "change"
    """
    expected = paracore.sampler("picard", window=4, guess="hold", stopping="change").composition
    assert recipes.loads(text).composition == expected
    assert recipes.loads('sampler = "chords"\nstarts = [0, 4]') == paracore.sampler("chords", starts=(0, 4))


def test_options_go_before_the_file(tmp_path: Path):
    path = tmp_path / "x.toml"
    paracore.save_sampler("picard(window=2)", path)
    made = paracore.load_sampler(path, window=5, stopping="change", initializer=Hold())
    expected = paracore.sampler("picard", window=5, stopping="change", initializer=Hold()).composition
    assert made.composition == expected
    path.write_text('sampler = "picard"\nwindow = 2')
    assert paracore.load_sampler(path, window=5).composition == paracore.sampler("picard", window=5).composition


def test_a_file_says_where_its_parts_came_from():
    data = tomllib.loads(recipes.dumps("picard"))
    version = paracore.registry.find("residual", "look-ahead").version
    assert data["made-with"] == {"paracore": version, **dict.fromkeys(KINDS, f"paracore {version}")}
    assert list(data)[:5] == ["name", "window", "tolerance", "output_form", "warmup"]
    assert json.loads(recipes.dumps("picard", "json")) == data


# -- parts of others -----------------------------------------------------------------------------------------------


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@attrs.frozen
class Bounds:
    low: float = 0.0
    high: float = 1.0


@attrs.frozen
class Elaborate(paracore.StoppingRule):
    """Options of every type that a file can hold."""

    nodes: tuple[int, ...] = (1, 2)
    mode: Mode = Mode.FAST
    bounds: Bounds = Bounds()
    limit: float | None = 5.0
    inner: paracore.StoppingRule = AbsoluteChange()  # noqa: RUF009
    by_name: Mapping[str, float] = attrs.field(factory=dict)

    def converged(self, round: paracore.Round, state: Any) -> Any:
        return self.inner.converged(round, state)


class Plain(paracore.StoppingRule):
    """No attrs, no equality."""

    def __init__(self, rows: int = 2) -> None:
        self.rows = rows

    def converged(self, round: paracore.Round, state: Any) -> Any:
        return round.gap <= 0


class Forgetful(Plain):
    """Keeps its option under another name, and halved."""

    def __init__(self, rows: int = 2) -> None:
        self.half = rows / 2


@attrs.frozen
class Named(paracore.StoppingRule):
    """An option that a table has another use for."""

    name: str = "?"

    def converged(self, round: paracore.Round, state: Any) -> Any:
        return round.gap <= 0


@attrs.frozen
class Nameless(Named):
    """Not registered."""


def tight(relative: float = 0.5) -> AbsoluteChange:
    """A function that builds a class that is registered itself."""
    return AbsoluteChange(0.0, relative)


@attrs.frozen
class Hidden(Named):
    """Built by a function only."""

    depth: int = 1


class Others:
    @paracore.hookimpl
    def paracore_stopping_rules(self) -> Mapping[str, Any]:
        return {
            "elaborate": Elaborate,
            "plain": Plain,
            "forgetful": Forgetful,
            "named": Named,
            "tight": tight,
            "hidden": lambda depth=1: Hidden("made here", depth),
        }


@pytest.fixture
def others() -> Iterator[None]:
    paracore.registry.register(Others(), "others")
    yield
    if any(entry.plugin == "others" for entry in paracore.registry.entries()):
        paracore.registry.unregister("others")


RULES = [
    Elaborate(),
    Elaborate((), Mode.SLOW, Bounds(-1, 2.5), 1e-300, Elaborate(inner=Named("deep")), {"a b": 1.0}),
    Elaborate(limit=None),
    Plain(3),
    Named("two words"),
    tight(),
    Hidden("made here", 4),
]


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("format", ["toml", "json"])
def test_options_of_many_types_and_parts_inside_parts(rule, format):
    again = recipes.loads(recipes.dumps(paracore.compose(stopping=rule), format), format).composition.stopping
    assert type(again) is type(rule)
    assert vars(again) == vars(rule) if isinstance(rule, Plain) else again == rule


CANNOT = [
    (Nameless(), "Nameless has no registered name; register it in a plugin"),
    (Forgetful(8), "'forgetful' with its options builds one that is not equal"),
    (Hidden("made elsewhere"), "'hidden' with its options builds one that is not equal"),
    (Elaborate(inner=Nameless()), "Nameless has no registered name"),
    (Elaborate(nodes=(torch.ones(1),)), "its option 'nodes' is of type Tensor"),
]


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(("rule", "message"), CANNOT, ids=lambda value: type(value).__name__)
def test_a_part_that_cannot_be_written_says_why(rule, message, tmp_path: Path):
    path = tmp_path / "x.toml"
    path.write_text("window = 4")
    with pytest.raises(ConfigurationError, match="cannot be written") as caught:
        paracore.save_sampler(paracore.compose(stopping=rule), path)
    assert message in str(caught.value)
    assert path.read_text() == "window = 4"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_tensor_is_given_when_loading(tmp_path: Path):
    guess = WarmStart(torch.zeros(3, 1, 2))
    sampler = paracore.compose(initializer=guess, window=3)
    with pytest.raises(ConfigurationError, match=r"'trajectory' is of type Tensor.*load_sampler\(path, initializer="):
        recipes.dumps(sampler)
    path = tmp_path / "x.toml"
    paracore.save_sampler(attrs.evolve(sampler.composition, initializer=Hold()), path)
    assert paracore.load_sampler(path, initializer=guess).composition == sampler.composition


# -- versions ------------------------------------------------------------------------------------------------------


def test_other_versions_are_a_warning():
    text = recipes.dumps("picard").replace('paracore = "', 'paracore = "9.').replace('"paracore ', '"paracore 9.')
    with pytest.warns(VersionWarning, match=r"was made with paracore 9\..* \(here: paracore .*; residual, jac"):
        made = recipes.loads(text)
    assert made.composition == paracore.sampler("picard").composition
    with pytest.warns(VersionWarning, match=r"made with lost-and-found 2\.0 \(here: paracore .*; stopping\)"):
        recipes.loads('stopping = "change"\n[made-with]\nstopping = "lost-and-found 2.0"')


def test_the_same_versions_are_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipes.loads(recipes.dumps("picard"))


@pytest.mark.usefixtures("others")
def test_a_name_that_is_gone_says_where_it_came_from():
    text = recipes.dumps(paracore.compose(stopping="plain")).replace("this process unversioned", "other-dist 1.2")
    paracore.registry.unregister("others")
    with pytest.raises(UnknownNameError, match=r"unknown stopping 'plain'.*made with other-dist 1\.2: is it installed"):
        recipes.loads(text)


# -- what cannot be read -------------------------------------------------------------------------------------------

WRONG = [
    ("", "is empty; name at least one setting"),
    ("windw = 4", "unknown key 'windw'; did you mean 'window'?"),
    ("jacobean = 'secant'", "unknown key 'jacobean'; did you mean 'jacobian'?"),
    ("window = '4'", "option window is '4'; int is needed"),
    ("window = 4.0", "option window is 4.0; int is needed"),
    ("window = true", "option window is True; int is needed"),
    ("window = 0", "window is 0; an integer of at least 1 is needed"),
    ("tolerance = nan", "tolerance is nan"),
    ("name = 3", "option name is 3; str is needed"),
    ("jacobian = 3", "jacobian is 3; a table with a name, or a string"),
    ("jacobian = 'secnt'", "unknown jacobian 'secnt'; did you mean 'secant'?"),
    ("jacobian = 'secant('", "lacks its closing bracket"),
    ("jacobian = 'copy'", "'copy' is a initializer"),
    ("[jacobian]\nmemory = 2", "jacobian: there is no name; write name = '...'"),
    ("[jacobian]\nname = 2", "jacobian: name is 2; write name"),
    ("[jacobian]\nname = 'secant'\nmemroy = 2", "jacobian 'secant' has no option 'memroy'; did you mean 'memory'?"),
    ("[jacobian]\nname = 'secant'\nmemory = 'two'", "jacobian 'secant': option memory is 'two'; int is needed"),
    ("[jacobian]\nname = 'secant'\nmemory = true", "option memory is True; int is needed"),
    ("[jacobian]\nname = 'secant'\nmemory = 1979-05-27", "option memory is datetime.date(1979, 5, 27); int"),
    ("[initializer]\nname = 'warm-start'\ntrajectory = [1]", "Tensor is needed, which a file cannot hold"),
    ("initializer = 'warm-start'", "needs the option 'trajectory'"),
    ("sampler = 'picrad'", "unknown sampler 'picrad'; did you mean 'picard'?"),
    ("sampler = 3", "sampler is 3; a name is needed"),
    ("sampler = 'picard'\nwindo = 4", "sampler 'picard' has no option 'windo'; did you mean 'window'?"),
    ("sampler = 'picard'\nwindow = 'four'", "option window is 'four'; int is needed"),
    ("sampler = 'picard'\nname = 'mine'", "presets name themselves"),
    ("sampler = 'picard(window=4)'\nwindow = 8", "window is given twice: in 'picard(window=4)' and as a key"),
    ("sampler = 'chords'\nstopping = 'change'", "has no part 'stopping' to replace"),
    ("window = 4\nmade-with = 'love'", "made-with is 'love'; a table of names and versions"),
    ("window = 4\n[made-with]\nparacoer = '1'", "unknown key in made-with 'paracoer'; did you mean 'paracore'?"),
    ("window = 4\nwindow = 5\n", "is damaged: Cannot overwrite a value (at line 2"),
    ("window = 4\n[jacobian\nname = 'secant'", "is damaged: Expected ']' at the end of a table declaration (at line 2"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text or "empty" for text, _ in WRONG])
def test_a_wrong_file_is_one_line_that_names_it(text, message, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises((ConfigurationError, UnknownNameError)) as caught:
        paracore.load_sampler(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


WRONG_JSON = [
    ('{"window": 4,\n "jacobian": }', "is damaged: Expecting value: line 2 column 14"),
    ('{"window": 4, "window": 5}', "is damaged: 'window' is given twice in one table"),
    ("[1]", "holds list; a table of settings and parts is needed"),
    ("[" * 100_000, "is damaged: its brackets are nested too deeply"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_JSON, ids=[text[:20] for text, _ in WRONG_JSON])
def test_a_damaged_json_file(text, message, tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        paracore.load_sampler(path)
    assert message in str(caught.value)


def test_other_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        paracore.load_sampler(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigurationError, match=r"x\.yaml: the ending says the format; \.toml or \.json is needed"):
        paracore.load_sampler(tmp_path / "x.yaml")
    path = tmp_path / "latin.toml"
    path.write_bytes("window = 4\nname = 'é'".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"latin\.toml is damaged: line 2 is no UTF-8 text"):
        paracore.load_sampler(path)
    with pytest.raises(ConfigurationError, match="unknown format 'tml'; did you mean 'toml'"):
        recipes.dumps("picard", "tml")
    with pytest.raises(ConfigurationError, match="a Sampler or a Composition is needed"):
        recipes.dumps(3)  # type: ignore[arg-type]


def test_what_only_one_format_can_hold():
    endless = paracore.compose(tolerance=float("inf"))
    assert recipes.loads(recipes.dumps(endless)).composition == endless.composition
    with pytest.raises(ConfigurationError, match="JSON has no infinite numbers"):
        recipes.dumps(endless, "json")
    half = paracore.compose(name="\ud800")
    assert recipes.loads(recipes.dumps(half, "json"), "json").composition == half.composition
    with pytest.raises(ConfigurationError, match="TOML cannot hold"):
        recipes.dumps(half)
