"""`/v1/audio/transcriptions` writes what the model writes, in OpenAI's forms."""

import json
import threading
import time

import numpy as np
import pytest

from inference.predictors.predictor import Prediction
from inference.recordings import padded
from serving.forms.speech import TranscriptionForm
from serving.routes.speech import respond, subtitles, web_subtitles
from tests.serving.in_process import multipart, post, send_file, tone

PATH = "/v1/audio/transcriptions"

SEGMENT_FIELDS = {
    "id",
    "seek",
    "start",
    "end",
    "text",
    "tokens",
    "temperature",
    "avg_logprob",
    "compression_ratio",
    "no_speech_prob",
}


@pytest.fixture(scope="module")
def server(speech_server):
    return speech_server


@pytest.fixture(scope="module")
def recogniser(server):
    return server.service.model


def transcribe(server, content, **fields):
    return send_file(server.url + PATH, server.model, content, **fields)


def alone(model, content):
    """Return the transcript of a recording as generate.py gives it."""
    predictor = model.default_predictor
    ((_, written),) = predictor.predict_contents(model.module, [""], [predictor.read(content)])
    return written


def evaluated(model, contents):
    """Return the transcripts of recordings as evaluate.py gets them: in one padded batch."""
    predictor = model.default_predictor
    frames, segments = padded([predictor.read(content) for content in contents])
    weights = (np.arange(len(frames)) < len(contents)).astype(np.float32)
    batch = {"frames": frames, "segments": segments, "weights": weights}
    return predictor.batch_predictor.predict_batch(model.module, batch)


def test_recordings_that_are_answered_together_get_the_text_of_each_alone(
    server, recogniser, monkeypatch
):
    contents = [
        tone(0.3, 400),
        tone(1.2, 900, "FLAC", 16_000),
        tone(0.6, 1500, "OGG", 22_050),
        tone(0.9, 697, "MP3", 44_100),
        tone(1.0, 941),
    ]
    predict, sizes = recogniser.default_predictor.predict_contents, []

    def predict_when_all_are_there(module, names, frames):
        deadline = time.monotonic() + 60
        worker = server.service.worker
        while not sizes and worker.running + worker.waiting < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        sizes.append(len(frames))
        return predict(module, names, frames)

    monkeypatch.setattr(
        recogniser.default_predictor, "predict_contents", predict_when_all_are_there
    )
    answers = [None] * len(contents)

    def ask(number):
        answers[number] = transcribe(server, contents[number], response_format="verbose_json")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert max(sizes) > 1
    expected = [alone(recogniser, content) for content in contents]
    texts = [answer["text"] for _, answer in answers]
    assert texts == [one.text for one in expected]
    assert texts == [one.text for one in evaluated(recogniser, contents)]
    assert len({one.text for one in expected}) > 2 and all(one.text for one in expected)
    for (_, answer), one in zip(answers, expected, strict=True):
        (segment,) = answer["segments"]
        mean = segment["avg_logprob"] * len(segment["tokens"])
        assert mean == pytest.approx(one.score, rel=1e-4)


def test_verbose_json_has_all_that_openai_describes(server, recogniser):
    content = tone(1.25)
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "segment"}
    status, answer = transcribe(server, content, language="en", temperature="0.0", **fields)
    assert status == 200 and answer["language"] == "en" and answer["task"] == "transcribe"
    assert answer["duration"] == 1.25 and answer["usage"] == {"type": "duration", "seconds": 1.25}
    (segment,) = answer["segments"]
    assert segment.keys() == SEGMENT_FIELDS
    assert (segment["start"], segment["end"], segment["text"]) == (0, 1.25, answer["text"])
    assert recogniser.tokenizer.decode(segment["tokens"]) == answer["text"]


def test_text_subtitles_json_and_events_have_the_same_text(server):
    content = tone(1.25)
    _, answer = transcribe(server, content, prompt="tones", language="en")
    text = answer["text"]
    assert answer == {"text": text, "usage": {"type": "duration", "seconds": 1.25}}
    times = "00:00:00,000 --> 00:00:01,250"
    for form, kind, expected in (
        ("text", "text/plain", f"{text}\n"),
        ("srt", "text/plain", f"1\n{times}\n{text}\n\n"),
        ("vtt", "text/vtt", f"WEBVTT\n\n{times.replace(',', '.')}\n{text}\n\n"),
    ):
        fields = [("model", "tones"), ("response_format", form), ("file", content)]
        status, body, headers = post(server.url + PATH, *multipart(fields))
        assert (status, body.decode()) == (200, expected)
        assert headers["content-type"] == f"{kind}; charset=utf-8"
    fields = [("model", "tones"), ("stream", "true"), ("file", content)]
    _, body, headers = post(server.url + PATH, *multipart(fields))
    delta, done, end = body.decode().strip().split("\n\n")
    assert json.loads(delta.removeprefix("data: ")) == {
        "type": "transcript.text.delta",
        "delta": text,
    }
    assert json.loads(done.removeprefix("data: "))["text"] == text
    assert end == "data: [DONE]" and headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"response_format": "diarized_json"}, "response_format", "'json', 'text'"),
        ({"temperature": "0.5"}, "temperature", "must be 0"),
        ({"temperature": "warm"}, "temperature", "number"),
        ({"temperature": "nan"}, "temperature", "finite"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "times of words"),
        ({"timestamp_granularities[]": "segment"}, "timestamp_granularities", "verbose_json"),
        ({"stream": "true", "response_format": "srt"}, "stream", "json"),
        ({"include[]": "logprobs"}, "include", "not supported"),
        ({"chunking_strategy": '{"type": "server_vad"}'}, "chunking_strategy", "not supported"),
        ({"known_speaker_names[]": "A"}, "known_speaker_names", "not supported"),
        ({"langauge": "en"}, "langauge", "did you mean language?"),
        ({"language": "e" * 1000}, "language", "at most"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(server, fields, param, said):
    status, answer = transcribe(server, tone(0.3), **fields)
    error = answer["error"]
    assert (status, error["param"]) == (400, param) and said in error["message"]


def test_fields_that_are_missing_wrong_or_there_twice_are_refused(server):
    url = server.url + PATH
    cases = (
        ([("file", tone(0.3))], 400, "model"),
        ([("model", "tones")], 400, "file"),
        ([("model", "whisper-1"), ("file", tone(0.3))], 404, "model"),
        ([("model", "tones"), ("model", "tones"), ("file", tone(0.3))], 400, "model"),
        ([("model", "tones"), ("audio", tone(0.3))], 400, "audio"),
        ([("model", "tones"), ("file", tone(0.3)), ("file", tone(0.3))], 400, "file"),
    )
    for parts, status, param in cases:
        found, body, _ = post(url, *multipart(parts))
        assert (found, json.loads(body)["error"]["param"]) == (status, param)
    assert post(url, b"{}", {"Content-Type": "application/json"})[0] == 415


def lying(content, start, replacement):
    return content[:start] + replacement + content[start + len(replacement) :]


FLAC = tone(0.5, form="FLAC")
BROKEN = {
    "nothing": b"",
    "text": b"no recording at all",
    "a WAV of 4 GB": lying(tone(0.5), 40, b"\x00\x00\x00\x7f"),
    "a WAV of 65535 channels": lying(tone(0.5), 22, b"\xff\xff"),
    "a WAV of 4 GHz": lying(tone(0.5), 24, b"\xff" * 4),
    "a WAV of 1 Hz": lying(tone(0.5), 24, b"\x01\0\0\0"),
    "garbage that begins as MP3": b"ID3\x04" + np.random.default_rng(0).bytes(5000),
    "garbage that begins as OGG": b"OggS" + np.random.default_rng(1).bytes(5000),
    "half an MP3": tone(2.0, form="MP3")[:3000],
    "a recording that is too long": tone(3.0),
    "an hour of silence": tone(3600.0, 0.0, "FLAC"),
    "a recording shorter than a frame": tone(0.01),
}


@pytest.mark.parametrize("what", BROKEN)
def test_files_that_lie_are_refused_and_the_next_is_answered(server, what):
    status, answer = transcribe(server, BROKEN[what])
    error = answer["error"]
    assert (status, error["param"], error["code"]) == (400, "file", "invalid_file"), error
    assert "0x" not in error["message"] and "/" not in error["message"]
    assert transcribe(server, tone(0.3))[0] == 200


def test_a_header_that_counts_too_many_samples_is_no_damage(server):
    content = lying(FLAC, 21, bytes((FLAC[21] | 15,)) + b"\xff" * 4)
    assert transcribe(server, content) == transcribe(server, FLAC)


def test_texts_are_safe_in_subtitles():
    assert subtitles("", 1.0) == "" and web_subtitles("", 1.0) == "WEBVTT\n\n"
    assert subtitles("a\n\nb", 3661.0015) == "1\n00:00:00,000 --> 01:01:01,002\na b\n\n"
    assert "a --&gt; &lt;b&gt; &amp;" in web_subtitles("a --> <b> &", 1.0)


def test_silence_has_no_segment(recogniser):
    form = TranscriptionForm(model="tones", response_format="verbose_json")
    written = Prediction("", -1.0)
    body = json.loads(respond(form, written, 1.0, recogniser.tokenizer).body)
    assert (body["text"], body["segments"], body["language"]) == ("", [], "unknown")
