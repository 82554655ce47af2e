"""What holds for the words: what may be asked, what is said of it, and turns that change the setting."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aded_cli.answer import Answer
from aded_cli.chat import main
from aded_cli.display import closing_line
from aded_local import LocalADED
from aded_local.errors import DeviceError, OptionError
from aded_local.llama.loading import lib
from aded_local.speed.exactness import Exactness
from aded_local.speed.pricing import Choice, Setting
from aded_local.speed.tuning import Tuner, setting_of

pytestmark = pytest.mark.usefixtures("quiet_machine")

SETTING = {"n_ctx": 512, "n_threads": 1}
OFF, ON = Setting(False, "f16"), Setting(True, "bf16")
GREEDY = {"max_tokens": 12, "temperature": 0.0}
QUESTION = [{"role": "user", "content": "one two three"}]


def another(now: Setting) -> Setting:
    """One whose cells are of no use to ``now``, whichever of the settings won here."""
    return OFF if now.flash_attention else ON


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[Choice]:
    """What the turns to come are answered in; the present setting where the list is empty."""
    wanted: list[Choice] = []

    def turn(tuner: Tuner, now: Setting, *_: Any) -> Choice | None:
        return wanted.pop(0) if wanted else None

    monkeypatch.setattr(Tuner, "turn", turn)
    return wanted


def test_a_turn_in_another_setting_goes_on_with_the_conversation(
    tiny: dict[str, Path], turns: list[Choice]
) -> None:
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        llm.prepare()
        now = setting_of(llm._engine.target.settings)
        other = another(now)
        first = llm.chat(QUESTION, **GREEDY)
        assert first.stats.setting == now.name
        talk = [*QUESTION, {"role": "assistant", "content": first.text}, {"role": "user", "content": "four"}]
        turns.append(Choice(other, False, 1.0, 0.0))
        second = llm.chat(talk, **GREEDY)
        assert second.stats.setting == other.name and second.stats.reused_tokens == 0
        talk += [{"role": "assistant", "content": second.text}, {"role": "user", "content": "five"}]
        third = llm.chat(talk, **GREEDY)
        assert third.stats.setting == other.name
        assert third.stats.reused_tokens >= second.stats.prompt_tokens, "the cells were made anew once"


def test_a_drafting_turn_stays_where_the_other_setting_was_not_measured(
    tiny: dict[str, Path], turns: list[Choice]
) -> None:
    with LocalADED(tiny["llama"], **SETTING) as llm:
        llm.prepare()
        engine = llm._engine
        now = setting_of(engine.target.settings)
        other = Setting(True, "f16")
        turns.append(Choice(other, False, 1.0, 0.0))
        engine.tuner.kept.curves.pop(other.name, None)
        assert llm.chat(QUESTION, **GREEDY).stats.setting == now.name
        engine.tuner.measure_curve(engine.tuner.settings(other))
        turns.append(Choice(other, False, 1.0, 0.0))
        assert llm.chat(QUESTION, **GREEDY).stats.setting == other.name
        assert engine.curve is engine.tuner.kept_curve(engine.target.settings)
        assert engine.threads.costs() is engine.curve, "passes are priced by the curve of the setting"


def test_a_session_comes_back_in_the_setting_that_its_cells_are_of(
    tiny: dict[str, Path], turns: list[Choice]
) -> None:
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        llm.prepare()
        now = setting_of(llm._engine.target.settings)
        first, other = llm.session(), llm.session()
        plain = first.chat(QUESTION, **GREEDY)
        turns.append(Choice(another(now), False, 1.0, 0.0))
        away = other.chat([{"role": "user", "content": "another text"}], **GREEDY)
        assert away.stats.setting != plain.stats.setting
        again = first.chat(QUESTION, **GREEDY)
        assert again.stats.setting == plain.stats.setting and again.tokens == plain.tokens
        assert again.stats.reused_tokens == plain.stats.prompt_tokens - 1


def test_ctrl_c_while_a_turn_changes_the_setting_leaves_a_model_that_answers(
    tiny: dict[str, Path], turns: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = lib.llama_init_from_model

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return make(*arguments)

    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        llm.prepare()
        now = setting_of(llm._engine.target.settings)
        expected = llm.chat(QUESTION, **GREEDY).tokens
        monkeypatch.setattr(lib, "llama_init_from_model", interrupted)
        turns.append(Choice(another(now), False, 1.0, 0.0))
        with pytest.raises(KeyboardInterrupt):
            llm.chat(QUESTION, **GREEDY)
        monkeypatch.setattr(lib, "llama_init_from_model", make)
        turns.append(Choice(now, False, 1.0, 0.0))
        assert llm.chat(QUESTION, **GREEDY).tokens == expected


def test_without_memory_for_any_context_the_next_turn_tries_again(
    tiny: dict[str, Path], turns: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = lib.llama_init_from_model
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        llm.prepare()
        now = setting_of(llm._engine.target.settings)
        expected = llm.chat(QUESTION, **GREEDY).tokens
        monkeypatch.setattr(lib, "llama_init_from_model", lambda *_: None)
        turns.append(Choice(another(now), False, 1.0, 0.0))
        with pytest.raises(DeviceError):
            llm.chat(QUESTION, **GREEDY)
        with pytest.raises(DeviceError):
            llm.chat(QUESTION, **GREEDY)
        monkeypatch.setattr(lib, "llama_init_from_model", make)
        assert llm.chat(QUESTION, **GREEDY).tokens == expected


@pytest.mark.parametrize("same", ["exact", "cheap", "off"])
def test_the_description_says_what_holds(tiny: dict[str, Path], same: Any) -> None:
    with LocalADED(tiny["llama"], same=same, on_notice=str, **SETTING) as llm:
        before = llm.description()["words"]
        llm.prepare()
        found = llm.description()
        assert found["same"] == same
        reply = llm.chat(QUESTION, **GREEDY)
        keeps = found["words"].startswith("same words as plain decoding")
        assert keeps or found["words"].startswith("may part from plain decoding")
        assert not (same == "off" and keeps and llm._engine.curve is not None)
        assert same != "exact" or (keeps and before.startswith("same words") and reply.stats.same_words)


def test_plain_decoding_says_so(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        assert llm.description()["words"] == "plain decoding"
        assert llm.chat(QUESTION, **GREEDY).stats.same_words


def test_words_kept_have_the_exact_sizes_alone(tiny: dict[str, Path], turns: list[Choice]) -> None:
    with LocalADED(tiny["llama"], **SETTING) as llm:
        llm.prepare()
        engine = llm._engine
        assert engine.curve is not None
        now = setting_of(engine.target.settings)
        engine.tuner.kept.exact[now.name] = Exactness([1, 2, 3], [256], steady=True)
        engine.keeps_words = True
        assert engine.limits().sizes == (1, 2, 3) and engine.limits().leaves == 1
        turns.append(Choice(now, False, 1.0, 0.2))
        llm.chat(QUESTION, **GREEDY)
        assert engine.limits().sizes is None and engine.limits().leaves > 1
        assert "20%" in llm.description()["words"]


def test_what_contradicts_is_refused(tiny: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="leave one out"):
        LocalADED(tiny["llama"], exact=True, same="off")
    with pytest.raises(OptionError, match="exact, cheap, off"):
        LocalADED(tiny["llama"], same="some")  # type: ignore[arg-type]
    said = CliRunner().invoke(main, [str(tiny["llama"]), "--exact", "--same", "off", "-p", "x"])
    assert said.exit_code == 2 and "leave one out" in said.output


def test_the_line_below_an_answer_says_what_changed(tiny: dict[str, Path], turns: list[Choice]) -> None:
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        first = llm.chat(QUESTION, **GREEDY)

    def line(stats: Any) -> str:
        return closing_line(
            Answer(text=first.text, tokens=first.tokens, stats=stats, finish_reason="stop"), first.stats
        )

    assert "plain decoding" not in line(first.stats)
    other = replace(first.stats, setting="fa-on/q8_0", same_words=False)
    assert "now fa-on/q8_0" in line(other) and "may part" in line(other)


def test_another_way_to_multiply_leaves_the_cells(tiny: dict[str, Path], turns: list[Choice]) -> None:
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        llm.prepare()
        now = setting_of(llm._engine.target.settings)
        other = now._replace(row_by_row=not now.row_by_row)
        first = llm.chat(QUESTION, **GREEDY)
        turns.append(Choice(other, True, 1.0, 0.0))
        again = llm.chat(QUESTION, **GREEDY)
        assert again.stats.setting == other.name and again.tokens == first.tokens
        assert again.stats.reused_tokens == first.stats.prompt_tokens - 1


def test_a_curve_that_is_not_kept_keeps_no_session_from_its_cells(
    tiny: dict[str, Path], turns: list[Choice]
) -> None:
    """Beside other programs curves are used and not kept."""
    with LocalADED(tiny["llama"], **SETTING) as llm:
        llm.prepare()
        first, other = llm.session(), llm.session()
        plain = first.chat(QUESTION, **GREEDY)
        other.chat([{"role": "user", "content": "another text"}], **GREEDY)
        llm._engine.tuner.kept.curves.clear()
        assert first.chat(QUESTION, **GREEDY).stats.reused_tokens == plain.stats.prompt_tokens - 1


def test_another_setting_s_curve_is_not_mixed_with_the_one_in_use(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier start, which did not ask for the words, tried fewer settings and left the curve of one of them."""
    with LocalADED(tiny["llama"], same="off", **SETTING) as llm:
        llm.prepare()
        tuner, first = llm._engine.tuner, llm._engine.tuner.settings(OFF)
        tuner.measure_curve(first)
        tuner.kept.trials.clear()
        tuner.save()

    def settled(tuner: Tuner, *_: Any) -> Choice:
        return Choice(ON, False, 1.0, 0.0)

    monkeypatch.setattr(Tuner, "settle", settled)
    asked: list[object] = []
    measure = Tuner.measure_curve

    def measured(tuner: Tuner, settings: Any, gate: Any = None, known: Any = None) -> Any:
        asked.append((setting_of(settings), known))
        return measure(tuner, settings, gate, known)

    monkeypatch.setattr(Tuner, "measure_curve", measured)
    with LocalADED(tiny["llama"], same="off", **SETTING) as llm:
        llm.prepare()
        engine = llm._engine
        assert setting_of(engine.target.settings) == ON
        before = engine.tuner.kept.curves[OFF.name]
        assert all(known is not before for setting, known in asked if setting == ON)  # type: ignore[misc]
        assert engine.curve is not before and engine.threads.costs() is engine.curve
