"""The report is one file that needs nothing else, and tells what is so of any run."""

import base64
import io
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from configs.reading.recipes import load_config
from configs.schema.config import Config
from reporting.report.machine import environment, versions
from reporting.report.page import write_report
from reporting.report.predictions import Predictions

ROOT = Path(__file__).parents[2]
SUMMARY = {
    "name": "a run",
    "status": "finished",
    "step": 400,
    "steps": 400,
    "parameters": 1_242_368,
    "seconds": 200.0,
}
MACHINE = {"command": "train.py", "devices": "8 × cpu", "flags": {}, "versions": {"jax": "1"}}
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """What a test asks of a page; fails on tags that don't match."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(self.source)
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())
        self.charts = {
            chart["title"]: chart | {"data": json.loads(attributes["data-chart"])}
            for chart, (_, attributes) in zip(
                (
                    match.groupdict()
                    for match in re.finditer(
                        r'<h3>(?P<title>.*?) <span class="read.*?"note">(?P<subtitle>.*?)</span>'
                        r"</h3>\s*(?P<svg><svg.*?</svg>)",
                        self.source,
                        re.DOTALL,
                    )
                ),
                (item for item in self.attributes if "data-chart" in item[1]),
                strict=True,
            )
        }

    def handle_starttag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)


def page_of(workdir: Path, **arguments) -> Page:
    given = {"summary": SUMMARY, "config": Config(), "environment": MACHINE, "metrics": []}
    path = write_report(workdir, **given | arguments)
    assert path == workdir / "report.html"
    assert [p.name for p in workdir.iterdir()] == ["report.html"]
    assert path.stat().st_size < 2_000_000
    return Page(path)


def picture_in(page: Page, number: int = 0) -> Image.Image:
    """One of its pictures."""
    urls = [attributes["src"] for tag, attributes in page.attributes if tag == "img"]
    return Image.open(io.BytesIO(base64.b64decode(urls[number].partition(",")[2])))


def training_line(step: int, loss: float) -> dict[str, float]:
    return {
        "step": step,
        "loss": loss,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0 + loss,
        "update_ratio": 1e-3 * loss,
        "examples_per_second": 50.0,
        "tokens_per_second": 12_400.0,
        "step_seconds": 0.05,
        "input_wait_fraction": 0.01,
    }


def text_run(steps: int, every: int = 10) -> list[dict[str, float]]:
    lines = []
    for step in range(every, steps + 1, every):
        loss = 2 + 6 * math.exp(-step / steps * 20)
        lines.append(training_line(step, loss))
        if step % (10 * every) == 0:
            validation = {"loss": loss + 0.1, "perplexity": 8.0, "bits_per_byte": loss * 0.75}
            lines.append({"step": step} | {f"validation/{k}": v for k, v in validation.items()})
    return lines


def test_the_page_needs_nothing_from_anywhere(tmp_path):
    page = page_of(
        tmp_path, metrics=text_run(400), samples=[{"prompt": "def ", "text": "f(): ..."}]
    )
    for tag, attributes in page.attributes:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in re.sub(r"url\(#", "", page.source)
    assert "default-src 'none'" in page.source


def test_a_text_run_shows_its_curves_and_figures(tmp_path):
    summary = SUMMARY | {"tokens": 32_768_000, "examples": 128_000, "gzip_bits_per_byte": 2.0}
    page = page_of(tmp_path, metrics=text_run(400), summary=summary)
    assert [*page.charts] == [
        "Loss", "Bits per byte", "Learning rate", "Gradient norm", "Update ratio", "Throughput",
        "Input wait",
    ]  # fmt: skip
    curves = page.charts["Loss"]["data"]["curves"]
    assert [curve["name"] for curve in curves] == ["training", "validation"]
    assert curves[0]["steps"] == [*range(10, 401, 10)]
    assert curves[1]["steps"] == [100, 200, 300, 400]
    assert "Bits per byte 1.500 25.0 % below gzip -9 (2.000)" in page.text
    assert "gzip -9 2.0000" in page.charts["Bits per byte"]["svg"]
    assert "Validation loss 2.1000 the best of 4 validations" in page.text
    assert "Steps 400 32.8 M tokens, 128,000 examples" in page.text
    assert "Time 3 min 20 s 12,400 tokens/s" in page.text
    assert "Parameters 1.24 M decoder" in page.text


@pytest.mark.parametrize(
    ("recipe", "target"),
    [("text_classification", "example"), ("tones_ctc", "label"), ("translation_rnn", "token")],
)
def test_losses_are_of_what_the_task_predicts(tmp_path, recipe, target):
    """Whatever the model reads: of texts too that are classified there are tokens a second."""
    config = load_config(ROOT / f"configs/{recipe}.py", inputs=False)
    lines = [{"step": 5, "validation/accuracy": 0.5, "validation/loss": 1.0}]
    page = page_of(tmp_path, metrics=[training_line(4, 1.0), *lines], config=config)
    assert f"nats per {target}" in page.text and f"share of the {target}s" in page.text


def test_the_test_split_comes_first(tmp_path):
    test = {"loss": 0.1, "accuracy": 0.994, "accuracy_top5": 1.0}
    page = page_of(tmp_path, metrics=text_run(400), summary=SUMMARY | {"test": test})
    assert "Test accuracy 99.4 % after the last step Bits per byte 1.500" in page.text


def test_a_model_worse_than_gzip_is_not_flattered(tmp_path):
    page = page_of(tmp_path, metrics=text_run(400), summary=SUMMARY | {"gzip_bits_per_byte": 1.0})
    assert "50.0 % above gzip -9 (1.000)" in page.text


def test_the_best_validation_is_told_where_it_is_not_the_last(tmp_path):
    lines = [{"step": s, "validation/loss": loss} for s, loss in ((10, 3.0), (20, 1.5), (30, 2.0))]
    page = page_of(tmp_path, metrics=lines)
    assert "Validation loss 2.0000 best: loss 1.5000 at step 20" in page.text


def test_a_beginning_that_would_flatten_the_rest_is_cut_off_and_told(tmp_path):
    page = page_of(tmp_path, metrics=text_run(4000))
    assert "begins at" in page.charts["Loss"]["subtitle"]
    assert "begins at" not in page_of(tmp_path, metrics=text_run(40)).charts["Loss"]["subtitle"]


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_run_of_few_points_has_a_report(tmp_path, lines):
    summary = SUMMARY | {"step": lines, "status": "stopped by SIGTERM"}
    page = page_of(tmp_path, metrics=text_run(10 * lines), summary=summary)
    assert len(page.charts) == (6 if lines else 0)
    assert f"Steps {lines} of 400" in page.text
    assert "stopped by SIGTERM" in page.text


def test_numbers_that_are_not_finite_are_left_out_and_told(tmp_path):
    lines = text_run(400)
    lines[3]["loss"] = lines[5]["loss"] = lines[3]["gradient_norm"] = math.nan
    lines[8]["validation/loss"] = math.inf
    page = page_of(tmp_path, metrics=lines)
    assert "the loss was not finite at 2 of 40 logged steps, first at step 40" in page.text
    assert len(page.charts["Loss"]["data"]["curves"][0]["steps"]) == 38
    assert len(page.charts["Gradient norm"]["data"]["curves"][0]["steps"]) == 39
    assert not re.search(r"\b(nan|NaN|inf|Infinity)\b", page.source.split("<h2>Configuration")[0])

    page = page_of(tmp_path, metrics=[training_line(1, math.nan)])
    assert "Loss" not in page.charts and "Learning rate" in page.charts


def test_extreme_losses_are_drawn(tmp_path):
    lines = [training_line(step, 10.0 ** (10 * step - 30)) for step in range(1, 7)]
    page = page_of(tmp_path, metrics=[*lines, training_line(7, 0.0)])
    assert len(page.charts["Loss"]["data"]["curves"][0]["steps"]) == 7


def test_a_long_run_stays_small(tmp_path):
    page = page_of(tmp_path, metrics=text_run(500_000))
    steps = page.charts["Loss"]["data"]["curves"][0]["steps"]
    assert len(steps) <= 400 and steps[-1] == 500_000
    assert len(page.source) < 500_000


def predictions_of(counts: np.ndarray, classes: list[str], probability=None) -> Predictions:
    """Examples with these counts of [true, predicted], one after the other."""
    pairs = np.argwhere(counts).repeat(counts[counts > 0], axis=0)
    if probability is None:
        probability = np.full(len(pairs), 0.5)
    return Predictions("test", classes, np.arange(len(pairs)), *pairs.T, probability)


def test_what_is_shown_is_escaped(tmp_path):
    evil = "</pre></figure><script>alert('\"')</script>&amp;"
    predictions = predictions_of(np.array([[3, 1], [0, 4]]), [evil, "b"])
    pages = [
        page_of(
            tmp_path,
            metrics=text_run(20),
            summary=SUMMARY | {"name": evil, "status": evil},
            environment=MACHINE | {"command": evil, "flags": {evil: evil}},
            samples=[{"prompt": evil, "text": evil}, {"source": evil, "hypothesis": evil}],
            warnings=[evil],
            events=[evil],
            predictions=predictions,
            example=lambda _, shown=shown: shown,
            attention=[np.full((1, 2, 2), 0.5)],
            attended=[evil, "b"],
        )
        for shown in (np.zeros((8, 8, 1), np.uint8), evil)
    ]
    for page in pages:
        assert [tag for tag, _ in page.attributes].count("script") == 1
    assert [sum(evil in text for text in page.texts) for page in pages] == [17, 18]


def test_samples_keep_every_character_that_can_be_shown(tmp_path):
    text = "\n  a\tb\x00\x1b[31m\x7f\x85\ud800 \u202e größer 字"
    written = [("", text), ("prompt", "x" * 30_000)] + [("", "y")] * 30
    samples = [{"prompt": prompt, "text": text} for prompt, text in written]
    page = page_of(tmp_path, samples=samples)
    assert "\n\n  a\tb␀␛[31m␡\ufffd? \u202e größer 字" in page.texts
    assert "... and 10,000 more characters" in page.text
    assert "and 12 more that are not shown" in page.text


def test_answers_stand_beside_their_references(tmp_path):
    lines = [
        {"step": step, "validation/loss": 2.0, "validation/accuracy": 0.5, "validation/bleu": bleu}
        for step, bleu in ((10, 20.0), (20, 31.25))
    ]
    sample = {"source": "two dogs", "reference": "zwei Hunde", "hypothesis": "zwei Katzen"}
    page = page_of(tmp_path, metrics=lines, samples=[sample])
    assert "source two dogs reference zwei Hunde hypothesis zwei Katzen" in page.text
    assert "Validation BLEU 31.2 the best of 2 validations" in page.text
    assert "BLEU of written answers" in page.text


def test_a_classifier_shows_its_confusions_and_surest_mistakes(tmp_path):
    counts = np.array([[18, 22, 0], [1, 9, 0], [0, 0, 0]])
    lines = [
        {"step": 10, "validation/loss": 0.4, "validation/accuracy": 0.85},
        training_line(10, 0.3) | {"accuracy": 0.9},
    ]
    pictures = np.random.default_rng(0).integers(0, 256, (50, 256, 256, 3), np.uint8)
    predictions = predictions_of(counts, ["cat", "dog", "owl"], np.arange(50) / 50)
    asked = []

    def example(number):
        asked.append(number)
        return pictures[number]

    page = page_of(tmp_path, metrics=lines, predictions=predictions, example=example)
    assert "test split: 27 of 50 examples are right" in page.text
    assert "predicted → cat dog owl cat 18 22 dog 1 9 owl class" in page.text
    assert "cat 40 94.7 % 45.0 % 61.0 % dog 10 29.0 % 90.0 % 43.9 % owl 0 - - -" in page.text
    assert "macro average 50 61.9 % 67.5 % 52.5 %" in page.text
    assert "Validation accuracy 85.0 %" in page.text
    curves = page.charts["Accuracy"]["data"]["curves"]
    assert [curve["name"] for curve in curves] == ["training", "validation"]
    assert asked == [40, *range(39, 20, -1)]
    images = [attributes for tag, attributes in page.attributes if tag == "img"]
    assert len(images) == 20
    assert "dog , not cat 80.0 % sure cat , not dog 78.0 % sure" in page.text
    assert "and 3 more that are not shown" in page.text


def test_a_classifier_of_texts_shows_them(tmp_path):
    predictions = predictions_of(np.array([[8, 1], [1, 9]]), ["good", "bad"])
    page = page_of(
        tmp_path, predictions=predictions, example=lambda i: f"text {i}\x00 " + 999 * "x"
    )
    assert "text 8␀" in page.text and "... and 407 more characters good , not bad" in page.text
    assert not [tag for tag, _ in page.attributes if tag == "img"]


def test_of_many_classes_the_commonest_confusions_are_shown_and_the_best_and_worst(tmp_path):
    counts = np.eye(1000, dtype=int) * 40
    counts[3, 7], counts[999, 0] = 5, 9
    predictions = predictions_of(counts, [f"class {i}" for i in range(1000)])
    page = page_of(tmp_path, predictions=predictions)
    assert "class 999 class 0 9 class 3 class 7 5" in page.text
    assert "... 980 more ..." in page.text
    assert "class 999 49 100.0 % 81.6 % 89.9 % macro average" in page.text
    assert "class 500" not in page.text


def test_the_filters_of_the_first_layer_are_a_picture(tmp_path):
    filters = np.random.default_rng(0).normal(size=(100, 5, 5, 3))
    page = page_of(tmp_path, filters=filters)
    assert "First filters 5 × 5, 64 of 100; grey is zero" in page.text
    sheet = picture_in(page)
    assert sheet.mode == "RGBA"
    assert sheet.size == (16 * 49, 4 * 49)  # 5 × 9 pixels each, and 4 between them
    of_first = np.asarray(sheet)[2:47:9, 2:47:9, :3].astype(int)
    expected = 127.5 + 127.5 * filters[0] / np.abs(filters[0]).max()
    np.testing.assert_allclose(of_first, expected, atol=0.51)


@pytest.mark.parametrize("positions", [16, 17])
def test_attention_lies_over_the_patches_with_a_class_token_and_without(tmp_path, positions):
    weights = np.random.default_rng(0).dirichlet(np.ones(positions), (6, 3, positions))
    picture = np.zeros((32, 32, 3), np.uint8)
    page = page_of(tmp_path, attention=weights, attended=picture)
    for layer in ("layer 1 of 6", "layer 3 of 6", "layer 4 of 6", "layer 6 of 6"):
        assert layer in page.text
    assert [tag for tag, _ in page.attributes].count("img") == 1 + 4 * 3
    heat = np.asarray(picture_in(page, 1))[..., 3] / 255
    received = weights[0, 0].mean(axis=0) if positions == 16 else weights[0, 0, 0, 1:]
    np.testing.assert_allclose(heat, received.reshape(4, 4) / received.max(), atol=0.003)


def test_attention_that_does_not_lie_over_the_patches_is_left_out(tmp_path):
    weights, picture = np.full((1, 2, 19, 19), 1 / 19), np.zeros((32, 32, 3), np.uint8)
    assert "<h2>Attention" not in page_of(tmp_path, attention=weights, attended=picture).source


def test_attention_on_a_text_stands_beside_its_tokens(tmp_path):
    weights = np.array([[[[1.0, 0.0], [0.25, 0.75]], [[1.0, 0.0], [0.75, 0.25]]]])
    weights = np.pad(weights, ((0, 0), (0, 0), (0, 1), (0, 1)))  # a position of padding
    page = page_of(tmp_path, attention=weights, attended=["def", " f\n"])
    assert "layer 1 of 1 def ␣f↵ def ␣f↵" in page.text
    assert re.findall(r"--shade: ([\d.]+)\"", page.source) == ["1.0", "1.0", "1.0"]


def test_every_field_of_the_configuration_is_there_and_what_differs_is_marked(tmp_path):
    base = Config()
    config = base.model_copy(
        update={"train": base.train.model_copy(update={"steps": 77, "ema_decay": 0.99})}
    )
    page = page_of(tmp_path, config=config)
    rows = re.findall(
        r'<tr( class="differs")?><th scope="row"><code>(.*?)</code></th><td><code>(.*?)</code>'
        r'</td><td class="muted">(?:<code>(.*?)</code>)?',
        page.source,
    )
    fields = {path: (value, default) for _, path, value, default in rows}
    assert {path for mark, path, *_ in rows if mark} == {"train.steps", "train.ema_decay"}
    assert fields["train.steps"] == ("77", "1000")
    assert fields["train.ema_decay"] == ("0.99", "none")
    assert fields["optimizer.learning_rate"] == ("0.001", "")

    def count(section) -> int:
        values = (getattr(section, name) for name in type(section).model_fields)
        return sum(count(v) if hasattr(type(v), "model_fields") else 1 for v in values)

    assert len(rows) == count(config)


def test_charts_are_whole_svg_in_the_colours_of_the_page(tmp_path):
    page = page_of(tmp_path, metrics=text_run(400))
    names = []
    for chart in page.charts.values():
        root = ElementTree.fromstring(chart["svg"])
        names += [element.get("id") for element in root.iter() if element.get("id")]
        assert "var(--first)" in chart["svg"] or "var(--second)" in chart["svg"]
        assert not re.search(r"#0[1-6]0", chart["svg"])
    assert len(names) == len(set(names))


def test_the_users_own_chart_settings_do_not_matter(tmp_path):
    import matplotlib

    expected = page_of(tmp_path, metrics=text_run(400)).charts
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.usetex": True}):
        assert page_of(tmp_path, metrics=text_run(400)).charts == expected


def test_the_environment_names_what_can_change_a_number():
    found = environment()
    assert found["devices"] == "8 × cpu"
    assert found["flags"]["XLA_FLAGS"] == os.environ["XLA_FLAGS"]
    assert found["versions"] == versions()
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy"} <= found["versions"].keys()
    assert re.fullmatch(r"[0-9a-f]{40}(, with uncommitted changes)?|not in .*", found["commit"])
    assert re.search(r", \d+ cores?$", found["processor"])
    assert found["memory"].endswith(" GiB") and found["host"] and found["command"]
    assert json.loads(json.dumps(found)) == found


def test_neither_the_report_nor_what_a_run_shows_starts_jax():
    modules = [f"reporting.{name}" for name in ("report", "progress", "metric_log")]
    modules += ["training.workdir", "training.stop_signals"]
    imports = "; ".join(f"import {module}" for module in modules)
    check = f"import sys; {imports}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_what_the_splits_hold_is_a_table(tmp_path):
    rows = [("", "train", "test"), ("examples", "1,234", "5"), ("too <short>", "7 documents", "0")]
    page = page_of(tmp_path, metrics=text_run(20), data=rows)
    for cell in (cell for row in rows for cell in row):
        assert cell in page.text
    assert "too <short>" not in page.source
    assert "<h2>Data" not in page_of(tmp_path, metrics=text_run(20)).source
