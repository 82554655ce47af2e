"""A report shows what result files hold, trusts nothing in them, and says what is missing."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aded_bench.commands.report import command
from aded_bench.report import charts
from aded_bench.report import write as report
from aded_bench.report.panels import DARK, LIGHT, style_of
from aded_bench.schema import KINDS, check
from aded_local.errors import OptionError, StoreError

EVIL = "<script>alert('x')</script>|$\\frac{"
METHODS = (
    "off", "auto", "paper", "llama-cpp", "llama-cpp-lookup", "server", "server-ngram-simple",
    "server-ngram-map-k", "server-ngram-map-k4v", "server-ngram-mod", "server-ngram-cache", "server-spec-default",
)  # fmt: skip
CATEGORIES = ("chat", "code", "maths", "summary", "translation", "extraction", "reasoning", "writing")
PROVENANCE = {
    "time": "2026-11-20T22:00:00+00:00", "command_line": ["aded-bench", "run", "--seed", "7"], "cpu": "a cpu",
    "versions": {"aded-local": "0.1.0", "numpy": "2.0"}, "settings": {"seed": 7, "threads": 2},
    "model": {"file": "m.gguf", "bytes": 5, "sha256": "ab" * 32, "quantization": "Q4_0"}, "gpu": None,
    "inputs": [{"file": "trace.jsonl.gz", "bytes": 9, "sha256": "cd" * 32}],
}  # fmt: skip


def result(kind: str, **keys: Any) -> dict[str, Any]:
    return {"kind": kind, "complete": True, "provenance": PROVENANCE} | keys


def summary(median: float, spread: float = 0.05) -> dict[str, Any]:
    steps = {
        "minimum": -4,
        "first_quartile": -2,
        "median": 0,
        "third_quartile": 2,
        "maximum": 4,
        "low": -1,
        "high": 1,
    }
    return {"count": 40} | {key: median * (1 + step * spread) for key, step in steps.items()}


def curve() -> dict[str, Any]:
    jagged = {1: 1, 2: 1.52, 3: 2.23, 4: 1.69, 8: 3.17, 16: 5.33, 32: 12, 64: 15.2}

    def entry(
        attention: bool, cache: str, prefix: int, power: float, sizes: dict[int, float]
    ) -> dict[str, Any]:
        times = {str(n): 20.5 * ratio**power for n, ratio in sizes.items()}
        return {
            "flash_attention": attention, "cache_type": cache, "prefix": prefix, "rounds": 5, "note": None,
            "ratio": {str(n): ratio**power for n, ratio in sizes.items()},
            "milliseconds": times, "low": times, "high": times,
            "exact": [1, 2, 3, 4, 8] if cache == "bf16" else [1],
        }  # fmt: skip

    curves = [
        entry(attention, cache, prefix, power, jagged)
        for attention, cache in ((False, "f16"), (True, "f16"), (True, "bf16"))
        for prefix, power in ((256, 1.0), (512, 1.02), (1536, 1.1 if attention else 1.04))
    ]
    curves.append(entry(False, "q8_0", 256, 1.0, {}) | {"note": "needs flash attention", "exact": None})
    return result("curve", curves=curves, chosen={"flash_attention": False, "cache_type": "f16"})


def replay_row(method: str, setting: str, phase: str, gain: float, own: bool) -> dict[str, Any]:
    def found(speedup: float) -> dict[str, Any]:
        bins = [{"low": i / 20, "high": (i + 1) / 20, "count": max(1, 40_000 >> i), "predicted": (i + 0.5) / 20,
                 "observed": min(1.0, (i + 0.3) / 19)} for i in range(20)]  # fmt: skip
        return {
            "passes": 900, "nodes": 1500, "tokens_per_pass": 1.4, "nodes_per_pass": 1.7, "speedup": speedup,
            "low": speedup - 0.03, "high": speedup + 0.03,
            "draft_microseconds": {"median": 8.0, "p99": 31.0, "mean": 9.0},
            "learn_microseconds": {"median": 3456.0, "p99": 9e3, "mean": 4e3},
            "categories": {c: {"answers": 9, "tokens": 99, "tokens_per_pass": 1.4, "speedup": speedup + i / 50 - 0.05,
                               "low": speedup + i / 50 - 0.1, "high": speedup + i / 50}
                           for i, c in enumerate(CATEGORIES)},
            "calibration": {"ece": 0.0123, "bins": bins} if own else None,
            "depths": [{"depth": d, "proposed": 5000 >> d, "accepted": int((5000 >> d) * gain / (2 + d / 4))}
                       for d in range(1, 12)],
        }  # fmt: skip

    body = found(gain) | {
        "model": "body-1b.gguf", "quantization": "Q4_0", "cache_type": "f16", "flash_attention": True, "threads": 2,
        "context": 512, "gpu_layers": "all", "plain_every": 8, "tokens": 1260, "seconds": 9.0, "plain_seconds": 9.9,
        "plain_passes_timed": 120, "modelled": gain * 1.02, "sizes": {}, "gap": {"plain": 1.0},
        "largest_gap": "plain steps differ", "curve": {}, "answers": {}, "clipped": 0, "left_out": 0,
    }  # fmt: skip
    curves = {"cpu2-q4_0-1b": found(gain), "cpu2-bf16-1b": found(gain * 1.2), "gpu-like": found(gain * 1.5)}
    return {
        "trace": "alpaca_eval-vicuna-7b-v1.3", "method": method, "setting": setting, "phase": phase,
        "answers": 150, "tokens": 46_585, "bits_per_token": 5.1 if own else None, "draft_microseconds": None,
        "learn_microseconds": None,
        "curves": curves, "body": body if method == "auto" else None,
    }  # fmt: skip


def replay() -> dict[str, Any]:
    settings = (
        ("off", "", 1.0), ("auto", "", 1.1), ("paper", "", 0.4), ("prompt-lookup", "n=2", 0.45),
        ("prompt-lookup", "n=3", 0.6), ("draftretriever", "", 0.35), ("suffix", "factor=1", 0.9),
        ("suffix", "factor=2", 0.95),
    )  # fmt: skip
    rows = [
        replay_row(
            method, setting, phase, gain + (0.04 if phase == "warm" else 0), method in ("auto", "paper")
        )
        for method, setting, gain in settings
        for phase in ("cold", "warm")
    ]
    traces = [
        {"name": "alpaca_eval-vicuna-7b-v1.3", "answers": 150, "tokens": 46_585, "categories": {"chat": 150}}
    ]
    rest = {"curves": {}, "warm": [], "ablation": [], "peers": {}, "skipped": {}}
    return result("replay", rows=rows, traces=traces, missing={"draftretriever": "no --peer-python"}, **rest)


def run() -> dict[str, Any]:
    def phase(lift: float) -> dict[str, Any]:
        methods = {
            name: {"tokens_per_second": summary(40 + 2 * lift * i), "first_token_ms": summary(30),
                   "tokens_per_pass": 1.5, "nodes_per_pass": 1.1, "memory_megabytes": 812.5,
                   "microseconds_per_pass": {"draft": 9, "verify": 20_000, "sample": 4, "elsewhere": 11}}
            for i, name in enumerate(METHODS)
        }  # fmt: skip
        ratios = {
            f"{name}/off": {"summary": summary(0.8 + lift * i / 20, 0.02), "same_tokens": 40, "pairs": 40,
                            "by_category": {c: summary(0.8 + lift * (i + j) / 25, 0.03)
                                            for j, c in enumerate(CATEGORIES)}}
            for i, name in enumerate(METHODS) if name != "off"
        }  # fmt: skip
        plain = {"summary": summary(1.01), "same_tokens": 40, "pairs": 40, "by_category": {}}
        return {"methods": methods, "ratios": ratios | {"off/llama-cpp": plain}}

    both = {"empty": phase(1.0), "warm": phase(1.15)}
    missing = {"spec-x": "not here"}
    return result(
        "run", suite="built-in", methods=list(METHODS), missing=missing, summary=both, runs=[], histories={}
    )


def lossless() -> dict[str, Any]:
    arm = {"method": "auto", "setting": "fa-on/bf16", "arm": "auto fa-on/bf16"}
    row = arm | {"same": "cheap", "against": "off", "temperature": 0.0, "identical": 199, "total": 200}
    parting = arm | {"prompt": "p1", "position": 12, "cells": 40, "temperature": 0.0}
    candidates = [{"token": 1, "text": "a", "one": 1.0, "wide": 1.01, "real": 1.02}] * 2
    seen = {"candidates": candidates, "gap": 0.01, "moved": 0.02, "within_rounding": True}
    other = {"gap": 3.21, "within_rounding": False}
    moved = {
        "positions": 480,
        "wide": 60,
        "divergence_mean": 1e-5,
        "divergence_largest": 0.003,
        "change_largest": 0.04,
    }
    arms = {
        "auto fa-on/bf16": {"method": "auto", "setting": "fa-on/bf16", "row_by_row": False, "sizes": None}
    }
    return result(
        "lossless", comparisons=[row | {"crossing_512_cells": 7}], answers={}, histories={}, arms=arms,
        partings=[parting | seen, parting | seen | other, parting], movements=[arm | moved],
        same={"cheap": {"arms": {"auto fa-on/bf16": 200}}},
    )  # fmt: skip


def sameness() -> dict[str, Any]:
    tensors = {
        "Q5_0": {"tensors": 120, "weights": 80_000_000},
        "Q8_0": {"tensors": 90, "weights": 20_000_000},
    }
    version = lossless() | {"tensors": tensors, "replaced": {"Q5_0": 0.8}}
    return result(
        "sameness", suite="chat", source={"tensors": tensors}, types={"q4_k_m": version, "q6_k": version}
    )


def schemas() -> dict[str, Any]:
    arm = {
        "answers": 100,
        "valid": 100,
        "same_text": 100,
        "compared": 100,
        "tokens_per_pass": 2.4,
        "nodes_per_pass": 2.1,
        "accepted_share": 0.7,
        "tokens_per_second": 180.0,
        "median_gain": 1.6,
        "draft_share": 0.05,
    }
    spelling = {"forced": {"tried": 2400, "came": 2200, "misspelt": 160}}
    plain = arm | {"median_gain": None}
    return result("schemas", answers={}, spelling=spelling, summary={"forced": arm, "off": plain})


def branch() -> dict[str, Any]:
    cell: dict[str, Any] = {
        "draft": "self",
        "curve": "gpu",
        "ratio": 5.0,
        "mode": "auto",
        "rule": None,
        "tokens": 90,
    }
    cell |= {
        "passes": 30,
        "speedup": 2.5,
        "low": None,
        "high": None,
        "tokens_per_pass": 3.0,
        "nodes_per_pass": 4.0,
    }
    cell |= {"target_waits": 0.1, "draft_idle": 0.2, "decodes_per_token": 2.0, "dropped_per_token": 1.5}
    ruled = cell | {"mode": "branch", "rule": "both", "class_accuracy": 0.6, "commonest_class": 0.5}
    return result(
        "branch",
        cells=[cell, cell | {"ratio": 10.0, "low": 2.0, "high": 3.0}, ruled],
        agreement={"self": 1.0},
    )


SAMPLES = {
    "branch": branch,
    "curve": curve,
    "replay": replay,
    "run": run,
    "lossless": lossless,
    "sameness": sameness,
    "schemas": schemas,
}


def saved(folder: Path, name: str, content: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


class Outline(HTMLParser):
    """Tags, ids and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.links.append(value or "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    small = run()
    small["summary"]["empty"]["ratios"] = {"auto/off": small["summary"]["empty"]["ratios"]["auto/off"]}
    del small["summary"]["warm"]
    one = replay() | {"rows": [row for row in replay()["rows"] if row["method"] == "auto"][:1]}
    one["rows"][0]["curves"] = {"gpu-like": one["rows"][0]["curves"]["gpu-like"]}
    one["rows"][0]["body"] = None
    slim = curve() | {"curves": curve()["curves"][:2]}
    contents = {"a": slim, "b": one, "c": small, "d": lossless(), "e": sameness()}
    report.write(
        report.collect([saved(folder, name, content) for name, content in contents.items()]), folder / "out"
    )
    return folder / "out"


def test_page_asks_for_nothing_from_outside_and_its_ids_are_unique(made: Path) -> None:
    page = Outline((made / "report.html").read_text(encoding="utf-8"))
    inside = [link for link in page.links if link.startswith("#")]
    drawn = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert len(inside) + len(drawn) == len(page.links)
    assert all(link[1:] in page.ids for link in inside) and len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert len(drawn) == len(list((made / "charts").iterdir())), "each for light and for dark"
    assert page.tags.count("img") == page.tags.count("picture") == len(drawn) / 2


def test_every_chart_has_a_picture_for_either_scheme_and_markdown_names_both(made: Path) -> None:
    names = {path.name for path in (made / "charts").iterdir()}
    keys = {"cost", "replay-total", "replay-categories-1", "replay-depth", "replay-calibration", "run-rate"}
    keys |= {"run-speed-up", "lossless", "sameness"}
    assert names == {f"{key}-{scheme}.png" for key in keys for scheme in ("light", "dark")}
    text = (made / "report.md").read_text(encoding="utf-8")
    assert all(f"charts/{name}" in text for name in names)


def test_numbers_peers_and_origin_are_in_both_texts(made: Path) -> None:
    for name in ("report.md", "report.html"):
        text = (made / name).read_text(encoding="utf-8")
        for said in (
            "no --peer-python",
            "not here",
            "cd" * 32,
            "aded-bench run --seed 7",
            "199 of 200",
            "46,585",
            "learn µs",
            "3,456",
            "0.0200",
        ):
            assert said in text, (name, said)
        assert "needs flash attention" not in text  # only in the part of the curve left out here
        assert "1.650 (1.620 to 1.680)" in text


def test_text_of_result_files_is_never_markup(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    evil = curve()["curves"][0] | {"cache_type": EVIL, "note": EVIL}
    chosen = {"flash_attention": True, "cache_type": EVIL}
    path = saved(tmp_path, "evil", result("curve", curves=[evil], missing={EVIL: EVIL}, chosen=chosen))
    report.write(report.collect([path]), tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script" in page
    text = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "<script" not in text and "\\|" in text


def test_texts_hold_nothing_that_a_terminal_obeys_and_scripts_are_unharmed(tmp_path: Path) -> None:
    joined = "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}"
    path = saved(tmp_path, "odd", lossless() | {"missing": {"a\x1b[31m\u202eb\n\x9bc": joined + "x" * 5000}})
    text = report.markdown(report.collect([path]), charts=False)
    assert "| a\\[31mb c | odd |" in text and "\u200d" in text and "x" * 2000 not in text


def test_interrupted_files_and_files_side_by_side_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    first = saved(tmp_path, "same", run())
    second = saved(tmp_path / "x", "same", run() | {"complete": False})
    found = report.collect([first, second, first])
    assert len(found.sources) == 2
    text = report.markdown(found, charts=False)
    assert "x/same (interrupted): store empty" in text and f"{tmp_path.name}/same: store empty" in text
    assert f"| method | {tmp_path.name}/same | x/same (interrupted) |" in text
    assert "Interrupted, and shown as far as they got: x/same" in text
    drawn = [
        (chart.key, panel.title) for part in found.sections for chart in part.charts for panel in chart.panels
    ]
    assert len(drawn) == len(set(drawn)) > 0


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_samples_are_what_the_schema_asks_for(kind: str) -> None:
    assert SAMPLES.keys() == KINDS.keys() == report.SECTIONS.keys()
    check(SAMPLES[kind](), KINDS[kind])


@pytest.mark.parametrize("kind", SAMPLES)
def test_absent_and_absurd_values_are_refused_in_one_line_or_shown(kind: str, tmp_path: Path) -> None:
    sample = SAMPLES[kind]()
    refused = 0
    for absurd in (None, [], [[]], {}, "x", 3, [None, 1], {"a": None}, float("nan"), 10**400):
        for key in [key for key in sample if key != "kind"]:
            path = saved(tmp_path, "odd", sample | {key: absurd})
            try:
                assert report.markdown(report.collect([path]), charts=True)
            except StoreError as error:
                assert "\n" not in str(error) and "odd.json" in str(error)
                refused += 1
    assert refused > 20
    keys = {
        "curve": "curves",
        "replay": "rows",
        "run": "runs",
        "lossless": "answers",
        "sameness": "types",
        "schemas": "spelling",
        "branch": "agreement",
    }
    key = keys[kind]
    path = saved(tmp_path, "cut", {k: v for k, v in sample.items() if k != key})
    with pytest.raises(StoreError, match=f"missing required field {key}"):
        report.collect([path])


EXTREME = (1.8e308, -1.8e308, math.nan, 10**400, 2**63, "fast", None, [], {})


def changed(value: Any, absurd: Any) -> Iterator[Any]:
    """The same with one number replaced, for every number in it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            for other in changed(inner, absurd):
                yield value | {key: other}
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield absurd


@pytest.mark.parametrize("absurd", EXTREME)
def test_no_number_that_is_shown_or_drawn_escapes_the_schema(absurd: Any) -> None:
    figures = replay()["rows"][2]["curves"]["gpu-like"]
    for key in ("passes", "speedup", "tokens_per_pass", "categories", "draft_microseconds"):
        for other in changed({key: figures[key]}, absurd):
            row = replay()["rows"][2] | {"curves": {"c": figures | other}}
            if absurd is not None or key in ("passes", "speedup"):
                with pytest.raises(ValueError, match="curves"):
                    check(replay() | {"rows": [row]}, KINDS["replay"])


def test_the_widest_and_narrowest_ratios_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    row = replay()["rows"][2]
    for figures, share in zip(row["curves"].values(), cycle((1e-300, 1e5))):
        figures["speedup"] = figures["low"] = share
    row["curves"]["gpu-like"]["calibration"]["bins"][3]["count"] = 10**15
    found = report.collect([saved(tmp_path, "odd", replay() | {"rows": [row]})])
    for chart in (chart for section in found.sections for chart in section.charts):
        charts.write_png(chart, tmp_path / "odd.png")
        assert (tmp_path / "odd.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"kind": "cake"}', '{"kind": []}', "[" * 100_000, "\x00"]
)
def test_what_is_no_result_file_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "no.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match="no result file") as caught:
        report.collect([path])
    assert "\n" not in str(caught.value)


def test_absent_files_and_unwritable_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        report.collect([tmp_path / "none.json"])
    path = saved(tmp_path, "a", lossless())
    with pytest.raises(StoreError, match="cannot be written"):
        report.write(report.collect([path]), path)


def test_without_matplotlib_one_line_says_what_to_install_and_no_charts_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = saved(tmp_path, "a", curve())
    with pytest.raises(OptionError, match=re.escape("pip install 'aded-local[bench]'")):
        report.write(report.collect([path]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(command, [str(path), "-o", str(tmp_path / "out"), "--no-charts"])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.md"]
    assert "<img" not in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_curve_chart_writes_a_picture_or_says_there_is_nothing_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    charts.curve_chart(curve() | {"curves": curve()["curves"][:1]}, tmp_path / "c.png", dark=True)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OptionError, match="no curve"):
        charts.curve_chart(curve() | {"curves": []}, tmp_path / "d.png")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_stand_out_from_the_paper(theme: dict[str, str]) -> None:
    paper = luminance(theme["surface"])
    for role in theme.keys() - {"surface", "grid"}:
        light, dark = sorted((paper, luminance(theme[role])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= (4.5 if role in ("ink", "muted") else 3), role


def test_a_method_has_one_look_and_no_two_of_a_run_share_it() -> None:
    looks = [style_of(method) for method in METHODS]
    assert len(set(looks)) == len(METHODS)
    assert style_of("something new") == style_of("something new")
