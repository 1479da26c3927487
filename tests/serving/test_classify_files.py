"""`/v1/classify` labels pictures and recordings as generate.py does, whatever is sent before."""

import io
import json
import struct
import threading
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from inference.loading import LoadedModel, load_model
from parallel.mesh import flat_mesh
from tests.serving.in_process import multipart, post, send_file, serving_model, tone
from tests.serving.servers import GOLDEN, SMALL, serving
from training.model_def import build_model_def
from training.restore import Restored

PATH = "/v1/classify"
WORKDIR = GOLDEN / "convolution_pictures"
LIMITS = SMALL | {
    "serve.max_upload_bytes": "3000000",
    "serve.sandbox_mb": "400",
    "serve.sandbox_processes": "1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that labels pictures of digits."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(WORKDIR, log, fields=LIMITS, environment={"TRIFORM_TOKEN": ""}) as one:
        yield one


@pytest.fixture(scope="module")
def labeller():
    """Return the scores of a picture as generate.py gives them."""
    model = load_model(WORKDIR)
    predictor = model.default_predictor

    def label(content):
        (found,) = predictor.predict_contents(model.module, [""], [predictor.read(content)])
        return found

    return label


def picture(seed=0, size=(32, 32), form="PNG", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.kron(pixels, np.ones((4, 4), np.uint8))).save(file, form, **options)
    return file.getvalue()


def flat(width, height, mode="RGB"):
    """Return a PNG of one colour: a few hundred KB for the largest."""
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def claiming(width, height):
    """Return a small PNG whose header names another size."""
    content = picture()
    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def classify(server, content, **fields):
    return send_file(server.url + PATH, server.model, content, **fields)


def scores_of(answer):
    return {one["label"]: one["score"] for one in answer["scores"]}


def test_a_picture_gets_the_scores_of_generate(server, labeller):
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        content = picture(1, form=form)
        status, answer = classify(server, content)
        expected = labeller(content)
        assert status == 200 and answer["object"] == "classification"
        assert (answer["model"], answer["label"]) == (server.model, expected.label)
        assert scores_of(answer) == pytest.approx(expected.scores, rel=1e-4)
        scores = [one["score"] for one in answer["scores"]]
        assert scores == sorted(scores, reverse=True) and answer["scores"][0]["label"] == (
            expected.label
        )


def test_pictures_that_come_together_get_their_own_labels(server, labeller):
    contents = [picture(seed) for seed in range(12)]
    answers = [None] * len(contents)

    def ask(number):
        answers[number] = classify(server, contents[number])[1]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for content, answer in zip(contents, answers, strict=True):
        assert scores_of(answer) == pytest.approx(labeller(content).scores, rel=1e-3, abs=1e-5)


def test_top_k_a_raw_body_and_a_rotation(server):
    _, whole = classify(server, picture(2))
    status, answer = classify(server, picture(2), top_k="3")
    assert status == 200 and answer["scores"] == whole["scores"][:3]
    url = f"{server.url}{PATH}?model={server.model}&top_k=3"
    status, body, _ = post(url, picture(2), {"Content-Type": "image/png"})
    assert status == 200 and json.loads(body) == answer
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    turned = Image.open(io.BytesIO(picture(2))).rotate(90, expand=True)
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    assert scores_of(classify(server, file.getvalue())[1]) == pytest.approx(scores_of(whole))


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"top_k": "0"}, "top_k", "greater than or equal to 1"),
        ({"top_k": "many"}, "top_k", "integer"),
        ({"top_q": "1"}, "top_q", "did you mean top_k?"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(server, fields, param, said):
    status, answer = classify(server, picture(), **fields)
    assert (status, answer["error"]["param"]) == (400, param) and said in answer["error"]["message"]


BROKEN = {
    "nothing": (b"", "invalid_file"),
    "text": (b"<html></html>", "invalid_file"),
    "half a picture": (picture(size=(64, 64))[:200], "invalid_file"),
    "a header of 10**10 pixels": (claiming(100_000, 100_000), "invalid_file"),
    "a header of 2**31 columns": (claiming(2**31 - 1, 1), "invalid_file"),
    "many pixels": (flat(7100, 7100), "invalid_file"),
    "a bomb in memory": (flat(7000, 7000, "RGBA"), "too_large"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n", "invalid_file"),
    "a recording": (tone(0.1), "invalid_file"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_files_that_lie_are_refused_and_the_next_is_answered(server, what):
    content, code = BROKEN[what]
    status, answer = classify(server, content)
    error = answer["error"]
    assert (status, error["param"], error["code"]) == (400, "file", code), error
    assert "0x" not in error["message"] and "/" not in error["message"]
    assert classify(server, picture())[0] == 200


def test_health_answers_while_pictures_are_decoded(server):
    content, ends = flat(6900, 6900, "L"), []
    threads = [
        threading.Thread(target=lambda: ends.append(classify(server, content)[0])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    looks = 0
    while not ends:
        assert server.request("/health")[0] == 200
        looks += 1
    for thread in threads:
        thread.join()
    assert looks > 1 and ends == [200] * 3


def test_uploads_beyond_the_limit_are_refused_and_no_memory_is_kept(server):
    status, answer = classify(server, b"x" * 3_000_001)
    assert status == 413 and "3000000 bytes" in answer["error"]["message"]
    lines = server.request("/metrics")[1].decode().splitlines()
    assert "triform_upload_bytes 0.0" in lines


def test_the_name_of_a_file_is_not_logged(server):
    assert classify(server, picture())[0] == 200
    assert "passwd" not in server.log.read_text()


def test_the_description(server):
    description = json.loads(server.request("/openapi.json")[1])
    operation = description["paths"][PATH]["post"]
    schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"file", "model"} == set(schema["required"]) and "top_k" in schema["properties"]


@pytest.fixture(scope="module")
def words():
    """A classifier of recordings with new weights."""
    fields = {
        "data.num_mels": "16",
        "model.width": "16",
        "model.depth": "1",
        "model.num_heads": "2",
        "model.subsampling_channels": "4",
    }
    config = load_config("configs/speech_classification.py", fields, inputs=False)
    spec = DataSpec(num_mels=16, max_frames=6, num_classes=3, classes=("no", "yes", "maybe"))
    model_def = build_model_def(config, spec, flat_mesh(jax.devices()[:1]))
    params, statistics = model_def.graph.initialize(jax.random.key(0))
    kernel = params["classes"]["kernel"]
    params["classes"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    model = LoadedModel(Restored(1, {}, model_def, params, statistics), None)
    with serving_model(model, "words", sandbox_processes=1, max_sound_seconds=30.0) as one:
        yield one


def test_recordings_get_the_scores_of_generate(words):
    model = words.service.model
    predictor = model.default_predictor
    for content in (tone(0.1), tone(0.4, 300, "FLAC", 16_000), tone(0.5, 1500, "MP3", 44_100)):
        (expected,) = predictor.predict_contents(model.module, [""], [predictor.read(content)])
        status, answer = send_file(words.url + PATH, "words", content)
        assert status == 200 and answer["label"] == expected.label
        assert scores_of(answer) == pytest.approx(expected.scores, rel=1e-4)
        assert json.loads(words.post(f"{PATH}?model=words", content, SOUND)[1]) == answer


SOUND = {"Content-Type": "audio/wav"}


def test_recordings_and_bodies_that_do_not_fit_are_refused(words):
    for content in (b"", b"no sound", tone(1.5), tone(31.0), picture()):
        status, answer = send_file(words.url + PATH, "words", content)
        assert (status, answer["error"]["param"]) == (400, "file")
    assert words.post(f"{PATH}?model=words", picture(), {"Content-Type": "image/png"})[0] == 415
    assert words.post(PATH, tone(0.1), SOUND)[0] == 400
    assert words.post(f"{PATH}?model=other", tone(0.1), SOUND)[0] == 404
    body, headers = multipart([("model", "words"), ("file", tone(0.1)), ("file", tone(0.1))])
    assert words.post(PATH, body, headers)[0] == 400
