"""Every way to get a command line wrong is refused, with what is wrong and the nearest right."""

import pytest

import serve
from configs.errors import UsageError
from configs.reading.command_line import parse_command_line
from configs.reading.recipes import load_config

TEXT = "--config=tests/configs/text_recipe.py"
PICTURES = "--config=configs/digits_cnn.py"
PAIRS = "--config=configs/dates_seq2seq.py"
CHARACTERS = "--config=configs/shakespeare_char.py"
WORKDIR = "--workdir=made"

# Arguments after a recipe and a workdir, and what the message must contain.
WRONG_FIELDS = [
    # Unknown fields and sections: the nearest names, in this section or another.
    ("--config.model.widht=3", "--config.model.widht", "did you mean --config.model.width?"),
    ("--config.train.widht=3", "--config.train.widht", "--config.model.width"),
    ("--config.model.lr=3", "did you mean --config.optimizer.learning_rate?"),
    ("--config.optimizer.lr=3", "did you mean --config.optimizer.learning_rate?"),
    ("--config.optimiser.learning_rate=3", "did you mean --config.optimizer.learning_rate?"),
    ("--config.learning_rate=3", "did you mean --config.optimizer.learning_rate?"),
    ("--config.data.batch_size=3", "did you mean --config.data.global_batch_size?"),
    ("--config.model.n_layer=3", "did you mean --config.model.depth?"),
    ("--config.train.step=3", "did you mean --config.train.steps?"),
    ("--config.data.tokeniser.kind=bpe", "did you mean --config.data.tokenizer.kind?"),
    ("--config.mesh.rules.hedas=()", "did you mean --config.mesh.rules.heads"),
    ("--config.train.qqqq=3", "train has steps, epochs, log_every_steps"),
    ("--config.qqqq=3", "the sections are seed, task, train"),
    ("--config.model.width.height=3", "--config.model.width.height is no field"),
    # What needs no setting says so, wherever it is sought.
    ("--config.train.resume=true", "is no field: training goes on by itself", "the same command"),
    ("--config.train.resume_from_checkpoint=x", "training goes on by itself from the newest"),
    ("--config.checkpoint.resume=x", "training goes on by itself from the newest"),
    ("--config.checkpoint.load=weights", "no field", "--config.train.initialize_from=DIR"),
    ("--config.ckpt=x", "training goes on by itself", "--config.train.initialize_from=DIR"),
    ("--config.train.devices=2", "all devices that JAX finds are used", "--config.mesh.data=N"),
    ("--config.=3", "is no field"),
    ("--config..=3", "is no field"),
    ("--config.model=cnn", "is a section", "--config.model.architecture"),
    ("--config.data.tokenizer=bpe", "is a section", "--config.data.tokenizer.kind"),
    ("--config.train=3", "is a section", "--config.train.steps"),
    # A field of another kind of the section.
    ("--config.model.channels=3", "belongs to model.architecture=cnn", "is decoder"),
    ("--config.data.image_size=8", "belongs to data.source=digits", "is python_stdlib"),
    ("--config.data.path=.", "belongs to data.source=text_files or records"),
    ("--config.data.tokenizer.kind=wordpiece --config.data.tokenizer.vocabulary_size=513",
     ">= 514", "not 513"),
    ("--config.data.tokenizer.path=x", "belongs to data.tokenizer.kind=file", "is bpe"),
    # Wrong type.
    ("--config.train.steps=abc", "--config.train.steps must be an integer >= 1", "not 'abc'"),
    ("--config.train.steps=1e3", "must be an integer", "not '1e3'"),
    ("--config.train.steps=10.0", "must be an integer", "not '10.0'"),
    ("--config.train.steps=true", "must be an integer", "not 'true'"),
    ("--config.train.steps=none", "must be an integer", "not 'none'"),
    ("--config.train.steps=1__0", "must be an integer", "not '1__0'"),
    ("--config.train.steps=٣", "must be an integer", "not '٣'"),
    ("--config.optimizer.learning_rate=fast", "must be a finite number", "not 'fast'"),
    ("--config.optimizer.learning_rate=0,1", "must be a finite number", "not '0,1'"),
    ("--config.model.use_bias=1", "must be true or false", "not '1'"),
    ("--config.model.use_bias=yes", "must be true or false", "not 'yes'"),
    ("--config.model.num_kv_heads=x", "must be an integer >= 1", "or none", "not 'x'"),
    # Out of range.
    ("--config.train.steps=0", "must be an integer >= 1", "not 0"),
    ("--config.train.steps=-5", "must be an integer >= 1", "not -5"),
    ("--config.train.steps=9999999999", "<= 2147483647", "not 9999999999"),
    ("--config.seed=-1", "--config.seed must be an integer >= 0", "not -1"),
    ("--config.model.dropout=1", "must be a finite number >= 0 and < 1", "not 1.0"),
    ("--config.train.ema_decay=1.0", "> 0 and < 1, or none", "not 1.0"),
    ("--config.optimizer.learning_rate=0", "must be a finite number >= 1e-30", "not 0.0"),
    ("--config.optimizer.learning_rate=1e-50", ">= 1e-30", "not 1e-50"),
    ("--config.optimizer.weight_decay=-0.1", ">= 0", "not -0.1"),
    ("--config.data.sequence_length=1", ">= 2", "not 1"),
    ("--config.data.tokenizer.vocabulary_size=100", ">= 258", "not 100"),
    ("--config.mesh.tensor=0", "must be an integer >= 1, or -1", "not 0"),
    ("--config.mesh.tensor=-2", "must be an integer >= 1, or -1", "not -2"),
    # Not finite.
    ("--config.optimizer.learning_rate=nan", "must be a finite number", "not nan"),
    ("--config.optimizer.learning_rate=inf", "must be a finite number", "not inf"),
    ("--config.optimizer.weight_decay=-inf", "must be a finite number", "not -inf"),
    ("--config.optimizer.learning_rate=1e999", "must be a finite number", "not inf"),
    # Wrong choice.
    ("--config.optimizer.schedule=step", "must be one of constant, cosine", "not 'step'"),
    ("--config.model.norm=batch", "must be one of rms_norm, layer_norm", "not 'batch'"),
    ("--config.model.architecture=gpt", "must be one of decoder, encoder, rnn,", "not 'gpt'"),
    ("--config.model.architecture=resnet --config.model.depth=20",
     "must be one of 18, 26, 34, 50, 101, 152", "not 20"),
    ("--config.optimizer.name=adam", "must be one of adamw, sgd", "not 'adam'"),
    ("--config.optimizer.learning_rate_multipliers=embedding",
     "PATTERN=FACTOR", "not ('embedding',)"),
    ("--config.data.tokenizer.kind=word",
     "one of characters, bytes, bpe, unigram, wordpiece, words, file", "not 'word'"),
    ("--config.precision.compute_dtype=float16", "one of auto, bfloat16, float32"),
    ("--config.checkpoint.best_metric=bleu", "must be one of loss, perplexity", "not 'bleu'"),
    ("--config.model.pattern=AX", "letters A (attention), C (convolution)", "not 'AX'"),
    ("--config.model.pattern=", "letters A (attention), C (convolution)", "not ''"),
    ("--config.mesh.rules.batch=model", "any of data, fsdp, tensor, sequence", "('model',)"),
    ("--config.mesh.rules.batch=data,data", "each at most once", "('data', 'data')"),
    # Fields that have no effect.
    ("--config.model.recurrence=lstm", "has no effect", "model.pattern=A has no R"),
    ("--config.optimizer.final_learning_rate_ratio=0 --config.optimizer.schedule=constant",
     "final_learning_rate_ratio=0 has no effect", "optimizer.schedule is constant"),
    ("--config.model.rotary_base=500 --config.model.positions=learned",
     "has no effect", "model.positions is learned"),
    ("--config.model.num_heads=2 --config.model.pattern=R", "has no effect", "has no A"),
    ("--config.model.positions=rotary --config.model.pattern=R", "has no effect", "has no A"),
    ("--config.model.attention_window=256", "has no effect", "data.sequence_length=256"),
    ("--config.checkpoint.best_metric=loss --config.checkpoint.keep_best=0",
     "has no effect", "checkpoint.keep_best is 0"),
    ("--config.task.sample_tokens=3 --config.task.sample_prompts=()",
     "has no effect", "task.sample_prompts is empty"),
    ("--config.data.cleaning.near_similarity=0.9",
     "has no effect", "data.cleaning.duplicates is keep"),
    ("--config.data.packing=best_fit --config.data.cross_document_attention=true",
     "has no effect", "data.packing is best_fit"),
    # Fields that do not go together.
    ("--config.data.cleaning.minimum_characters=9 --config.data.cleaning.maximum_characters=8",
     "maximum_characters=8", "minimum_characters=9", "no document is left"),
    ("--config.data.source=records --config.data.text_column=a",
     "did you mean --config.data.text_field?"),
    ("--config.data.cleaning.dedup=near", "did you mean --config.data.cleaning.duplicates?"),
    ("--config.train.gradient_accumulation=3", "data.global_batch_size=16",
     "train.gradient_accumulation=3", "15 or 18"),
    ("--config.mesh.data=3", "data.global_batch_size=16", "mesh.data=3", "15 or 18"),
    ("--config.mesh.data=2 --config.mesh.fsdp=3", "mesh.data=2 x mesh.fsdp=3", "12 or 18"),
    ("--config.train.gradient_accumulation=8 --config.mesh.fsdp=4",
     "data.global_batch_size=16 / train.gradient_accumulation=8", "mesh.fsdp=4", "32"),
    ("--config.mesh.data=-1 --config.mesh.fsdp=-1", "mesh.data and mesh.fsdp are -1"),
    ("--config.model.width=130", "model.width=130", "model.num_heads=4", "128 or 132"),
    ("--config.model.num_heads=6 --config.model.num_kv_heads=4",
     "model.num_kv_heads=4", "model.num_heads=6", "such as 2"),
    ("--config.model.num_kv_heads=8", "model.num_kv_heads=8", "such as 4"),
    ("--config.mesh.tensor=3", "model.num_heads=4", "mesh.tensor=3", "3 or 6"),
    ("--config.mesh.tensor=4 --config.model.num_kv_heads=2",
     "model.num_kv_heads=2", "mesh.tensor=4", "use 4"),
    ("--config.model.head_dim=7", "model.head_dim is 7", "odd", "use 8"),
    ("--config.model.width=12", "model.width / model.num_heads is 3", "odd", "positions"),
    ("--config.model.pattern=RRRRA", "5 letters", "model.depth=4", "model.depth=5"),
    ("--config.model.pattern=RRA --config.model.scan_layers=true",
     "model.scan_layers", "model.depth=4", "3 or 6"),
    ("--config.mesh.sequence=2 --config.model.pattern=AR",
     "mesh.sequence=2", "model.pattern=AR", "mesh.sequence=1"),
    ("--config.mesh.sequence=3", "data.sequence_length=256", "mesh.sequence=3", "255 or 258"),
    ("--config.model.architecture=cnn", "task.name=language_modeling on text needs",
     "decoder or rnn, not cnn"),
    ("--config.model.architecture=encoder", "needs model.architecture=decoder or rnn, not encoder"),
    ("--config.model.architecture=rnn --config.model.bidirectional=true",
     "model.bidirectional=true sees the tokens that task.name=language_modeling has to predict"),
    ("--config.task.name=masked_language_modeling --config.checkpoint.best_metric=loss "
     "--config.model.architecture=encoder --config.model.pattern=R --config.model.width=33",
     "runs both ways here with half the units each, but model.width is 33"),
    ("--config.model.convolution_size=3", "has no effect", "has no C (convolution)"),
    ("--config.model.pooling=last", "has no effect", "task.name is language_modeling"),
    ("--config.model.pattern=C --config.mesh.sequence=2", "model.pattern=C (convolution)"),
    ("--config.data.source=digits", "learns from text", "data.source=digits gives pictures"),
    ("--config.task.name=classification", "learns from pictures or labelled text",
     "data.source=python_stdlib"),
]  # fmt: skip

WRONG_PAIRS = [
    ("--config.task.name=language_modeling", "learns from text,", "gives text pairs"),
    ("--config.model.architecture=decoder --config.checkpoint.best_metric=loss",
     "task.name=sequence_to_sequence on text pairs needs model.architecture=encoder_decoder or "
     "rnn_encoder_decoder, not decoder"),
    ("--config.checkpoint.best_metric=bits_per_byte",
     "must be one of loss, perplexity, accuracy, exact_match, bleu, chrf"),
    ("--config.checkpoint.best_metric=bleu --config.task.answered_examples=0",
     "best_metric=bleu is of written answers", "task.answered_examples=0"),
    ("--config.task.length_penalty=1 --config.task.beam_size=1", "no effect", "beam_size is 1"),
    ("--config.task.num_beams=3", "did you mean --config.task.beam_size?"),
    ("--config.mesh.sequence=2", "text pairs have many lengths"),
    ("--config.mesh.tensor=3 --config.model.pattern=R", "model.num_heads=4", "mesh.tensor=3"),
    ("--config.model.encoder_pattern=RRA", "model.encoder_pattern=RRA", "model.depth=2"),
    ("--config.model.encoder_depth=1 --config.model.pattern=RA",
     "model.pattern=RA", "model.encoder_depth=1", "model.encoder_depth=2"),
    ("--config.model.encoder_depth=3 --config.model.pattern=RA --config.model.scan_layers=true",
     "model.encoder_depth=3", "2 or 4"),
    ("--config.model.encoder_pattern=R --config.model.positions=none --config.model.width=33 "
     "--config.model.num_heads=3",
     "model.encoder_pattern=R", "runs both ways", "33"),
    ("--config.model.positions=sinusoidal --config.model.width=33 --config.model.num_heads=3",
     "model.positions=sinusoidal", "model.width is 33"),
    ("--config.model.positions=sinusoidal_fairseq --config.model.width=2 "
     "--config.model.num_heads=1",
     "model.positions=sinusoidal_fairseq", "model.width is 2"),
]  # fmt: skip

WRONG_FLAGS = [
    # Unknown flags: the nearest flag or field.
    ("--wokdir=x", "unknown flag --wokdir", "did you mean --workdir?"),
    ("--confg=x", "unknown flag --confg", "did you mean --config?"),
    ("--steps=3", "unknown flag --steps", "did you mean --config.train.steps?"),
    ("--learning_rate=3", "unknown flag", "did you mean --config.optimizer.learning_rate?"),
    ("--train.steps=3", "unknown flag", "did you mean --config.train.steps?"),
    ("--undefok=steps", "unknown flag --undefok"),
    ("--zzzzzz", "unknown flag --zzzzzz", "there are --config, --workdir"),
    ("--no-explain", "unknown flag --no-explain", "did you mean --explain?"),
    # What other trainers call it.
    ("--resume", "unknown flag --resume: training goes on by itself", "the same command again"),
    ("--auto-resume", "training goes on by itself from the newest checkpoint in --workdir"),
    ("--load_checkpoint=x", "training goes on by itself from the newest checkpoint"),
    ("-resume", "stray argument '-resume': training goes on by itself"),
    ("--overwrite_output_dir", "a run is never written over: give another --workdir"),
    ("--gpus=2", "all devices that JAX finds are used", "CUDA_VISIBLE_DEVICES"),
    ("--device=cuda", "all devices that JAX finds are used"),
    ("--do_train", "evaluate.py --workdir=DIR measures a trained model"),
    ("--output_dir=x", "did you mean --workdir?"),
    ("--log-dir=x", "did you mean --workdir?"),
    ("--run_name=x", "did you mean --workdir?"),
    ("--dry_run", "did you mean --explain?"),
    ("--lr=1e-3", "did you mean --config.optimizer.learning_rate?"),
    ("--batch_size=32", "did you mean --config.data.global_batch_size?"),
    ("--per_device_train_batch_size=8", "did you mean --config.data.global_batch_size?"),
    ("--num_workers=4", "did you mean --config.data.workers?"),
    ("--bf16", "did you mean --config.precision.compute_dtype?"),
    ("--mixed_precision=fp16", "did you mean --config.precision.compute_dtype?"),
    ("--max_steps=100", "did you mean --config.train.steps?"),
    ("--save_steps=100", "did you mean --config.checkpoint.every_steps?"),
    ("--eval_steps=100", "did you mean --config.train.evaluate_every_steps?"),
    ("--logging_steps=100", "did you mean --config.train.log_every_steps?"),
    ("--save_total_limit=3", "did you mean --config.checkpoint.keep_last?"),
    ("--warmup_ratio=0.1", "did you mean --config.optimizer.warmup_steps?"),
    ("--max_seq_length=64", "did you mean --config.data.sequence_length?"),
    ("--train_file=x", "did you mean --config.data.path?"),
    ("--val_split=0.1", "did you mean --config.data.validation_fraction?"),
    ("--model_name_or_path=x", "did you mean --config.train.initialize_from?"),
    # A section stands for what tells its kind.
    ("--optimizer=lion", "did you mean --config.optimizer.name?"),
    ("--model=cnn", "did you mean --config.model.architecture?"),
    ("--tokenizer=bpe", "did you mean --config.data.tokenizer.kind?"),
    # Stray arguments.
    ("config.train.steps=3", "stray argument", "did you mean --config.train.steps=3?"),
    ("-config.train.steps=3", "stray argument", "did you mean --config.train.steps=3?"),
    ("train.steps=3", "stray argument", "did you mean --config.train.steps=3?"),
    ("steps=3", "stray argument", "did you mean --config.train.steps=3?"),
    ("\u2013config.train.steps=3", "stray argument", "did you mean --config.train.steps=3?"),
    ("\u2014explain", "stray argument", "did you mean --explain?"),
    ("-explain", "stray argument", "did you mean --explain?"),
    ("prompt=Hello", "stray argument", "did you mean --prompt=Hello?"),
    ("runs/a", "stray argument 'runs/a'", "--name=value"),
    ("--", "stray argument '--'"),
    ("--=3", "stray argument '--=3'"),
    # Given twice.
    ("--config.train.steps=3 --config.train.steps=4", "--config.train.steps is given twice"),
    ("--config.train.steps=3 --config.train.steps=3", "--config.train.steps is given twice"),
    ("--max_tokens=3 --max_tokens=4", "--max_tokens is given twice", "keep one"),
    ("--explain --explain", "--explain is given twice"),
    ("--workdir=a", "--workdir is given twice"),
    # A flag without its value, or with one that it does not take.
    ("--config.train.steps", "--config.train.steps needs a value", "an integer >= 1"),
    ("--config.train.steps --explain", "--config.train.steps needs a value"),
    ("--max_tokens", "--max_tokens needs a value", "an integer >= 1"),
    ("--max_tokens=", "--max_tokens needs a value"),
    ("--prompt --explain", "--prompt needs a value"),
    ("--prompt --hello", "--prompt needs a value", "--prompt=--hello"),
    ("--explain=true", "--explain takes no value"),
    # Values of flags.
    ("--max_tokens=x", "--max_tokens must be an integer >= 1", "not 'x'"),
    ("--max_tokens=0", "--max_tokens must be an integer >= 1", "not '0'"),
    ("--max_tokens=1e3", "--max_tokens must be an integer", "not '1e3'"),
    ("--top_p=0", "--top_p must be a finite number > 0 and <= 1", "not '0'"),
    ("--top_p=1.1", "--top_p must be a finite number > 0 and <= 1", "not '1.1'"),
    ("--top_p=nan", "--top_p must be a finite number", "not 'nan'"),
    ("--weights=best", "--weights must be one of ema, raw", "not 'best'"),
]

WRONG_PICTURES = [
    ("--config.model.channels=32,0", "one or more integers >= 1", "not (32, 0)"),
    ("--config.model.channels=", "one or more integers >= 1", "not ''"),
    ("--config.model.channels=()", "one or more integers >= 1", "not ()"),
    ("--config.model.channels=32,x", "one or more integers >= 1", "not '32,x'"),
    ("--config.model.channels=32,,64", "one or more integers >= 1", "not '32,,64'"),
    ("--config.model.channels=(32", "one or more integers >= 1", "not '(32'"),
    ("--config.model.channels=(1.5,2)", "one or more integers >= 1", "not '(1.5,2)'"),
    ("--config.data.image_size=2", "an integer >= 4 and <= 1024", "not 2"),
    ("--config.data.channels=2", "data.channels must be one of 1, 3", "not 2"),
    ("--config.data.augmentation.crop=random", "one of none, padded, random_resized"),
    ("--config.data.augmentation.crop_padding=2", "no effect", "crop is none"),
    ("--config.data.augmentation.randaugment_magnitude=2", "no effect", "randaugment_layers is 0"),
    (
        "--config.data.augmentation.hflip=0.5",
        "did you mean --config.data.augmentation.flip_probability?",
    ),
    ("--config.data.decoded=files --config.data.decoded_bytes=9", "no effect", "decoded is files"),
    ("--config.model.num_heads=2", "belongs to model.architecture=decoder", "is cnn"),
    ("--config.data.tokenizer.kind=bpe", "data.tokenizer belongs to data.source=python_stdlib"),
    ("--config.data.sequence_length=8", "belongs to data.source=python_stdlib or text_files or"),
    ("--config.mesh.sequence=2", "mesh.sequence=2", "model.architecture=cnn"),
    ("--config.checkpoint.best_metric=perplexity", "one of loss, accuracy, accuracy_top5"),
]


@pytest.mark.parametrize(("arguments", "expected"), [(row[0], row[1:]) for row in WRONG_FIELDS])
def test_a_wrong_field_is_refused_with_the_nearest_right(refusal, arguments, expected):
    message = refusal(TEXT, WORKDIR, *arguments.split())
    assert [part for part in expected if part not in message] == [], message


@pytest.mark.parametrize(("arguments", "expected"), [(row[0], row[1:]) for row in WRONG_FLAGS])
def test_a_wrong_flag_is_refused_with_the_nearest_right(refusal, arguments, expected):
    message = refusal(TEXT, WORKDIR, *arguments.split())
    assert [part for part in expected if part not in message] == [], message


@pytest.mark.parametrize(("arguments", "expected"), [(row[0], row[1:]) for row in WRONG_PICTURES])
def test_a_wrong_field_of_a_classifier_is_refused(refusal, arguments, expected):
    message = refusal(PICTURES, WORKDIR, *arguments.split())
    assert [part for part in expected if part not in message] == [], message


@pytest.mark.parametrize(("arguments", "expected"), [(row[0], row[1:]) for row in WRONG_PAIRS])
def test_a_wrong_field_of_pairs_is_refused(refusal, arguments, expected):
    message = refusal(PAIRS, WORKDIR, *arguments.split())
    assert [part for part in expected if part not in message] == [], message


def test_a_missing_flag_is_named(refusal):
    assert "--config is missing: --config=FILE" in refusal(WORKDIR)
    assert "--workdir is missing: --workdir=DIR" in refusal(TEXT)
    assert "--config is missing" in refusal()


def test_missing_text_is_refused(refusal, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").touch()
    (tmp_path / "nested" / "deeper").mkdir(parents=True)
    cases = {
        None: "data.path is not given: say where the text is, --config.data.path=FILE",
        tmp_path / "gone.txt": "gone.txt is not there",
        tmp_path
        / "Nothing.TXT": f"Nothing.TXT is not there (did you mean {tmp_path}/nothing.txt?)",
        tmp_path / "empty": "is a folder without files",
        tmp_path / "nested": "is a folder without files",
        tmp_path / "nothing.txt": "is an empty file",
        tmp_path / "*.md": "no file matches",
        "gone.txt": "gone.txt is not there, seen from ",
        "~/gone.txt": "write $HOME",
        "https://somewhere/{0..2}.txt": "must be a path of this machine, or gs://, or s3://: "
        "download it first",
        "": "data.path must be a file, a folder or a glob",
    }
    for path, expected in cases.items():
        given = [] if path is None else [f"--config.data.path={path}"]
        message = refusal(CHARACTERS, WORKDIR, *given)
        assert expected in message, message


def test_missing_pictures_are_refused(refusal, tmp_path):
    (tmp_path / "a.jpg").touch()
    of_a_folder = (PICTURES, WORKDIR, "--config.data.source=image_folder")
    assert "say where the pictures are" in refusal(*of_a_folder)
    assert "is not there" in refusal(*of_a_folder, f"--config.data.path={tmp_path / 'gone'}")
    assert "is a file: give a folder" in refusal(
        *of_a_folder, f"--config.data.path={tmp_path / 'a.jpg'}"
    )
    assert "data.name is not given" in refusal(
        PICTURES, WORKDIR, "--config.data.source=tfds_pictures"
    )


def test_missing_pairs_are_refused(refusal, tmp_path):
    recipe, source = "configs/dates_seq2seq.py", "--config.data.source=parallel_text"
    (tmp_path / "corpus.en").write_text("a")
    (tmp_path / "empty").mkdir()
    cases = {
        None: "say where the pairs are, --config.data.path=FOLDER with train.en and train.de, or",
        tmp_path / "gone": "gone is not there",
        tmp_path / "empty": "is a folder without files",
        tmp_path / "*.tsv": "no file matches",
    }
    for path, expected in cases.items():
        given = [] if path is None else [f"--config.data.path={path}"]
        message = refusal(f"--config={recipe}", WORKDIR, source, *given)
        assert expected in message, message
    begun = {"data.source": "parallel_text", "data.path": str(tmp_path / "corpus")}
    assert load_config(recipe, begun).data.path == str(tmp_path / "corpus")
    given = (f"--config={recipe}", WORKDIR, source, f"--config.data.path={tmp_path / 'corpus'}")
    assert "has no effect: data.source_field is given" in refusal(
        *given, "--config.data.source_field=text", "--config.data.source_language=fr"
    )
    assert "are both de: a text can't be its own target" in refusal(
        *given, "--config.data.source_language=de"
    )


def test_missing_recordings_are_refused(refusal, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    of_sound = (TEXT, WORKDIR, "--config.task.name=speech_recognition",
                "--config.model.architecture=conformer", "--config.checkpoint.best_metric=wer",
                "--config.data.source=sound_transcripts")  # fmt: skip
    assert "say where the recordings are listed" in refusal(*of_sound)
    for name, words in {
        "gone.jsonl": "gone.jsonl is not there",
        "emty.jsonl": f"emty.jsonl is not there (did you mean {tmp_path}/empty.jsonl?)",
        "empty.jsonl": "is an empty file",
    }.items():
        assert words in refusal(*of_sound, f"--config.data.path={tmp_path / name}")
    of_sound = (*of_sound[:-1], "--config.data.source=tfds_sound_transcripts")
    assert "data.name is not given" in refusal(*of_sound)


def test_a_missing_tokenizer_or_a_file_as_cache_is_refused(refusal, tmp_path):
    (tmp_path / "text.txt").write_text("text")
    of_a_file = "--config.data.tokenizer.kind=file"
    path = "--config.data.tokenizer.path"
    assert "data.tokenizer.path is not given" in refusal(TEXT, WORKDIR, of_a_file)
    assert "is not there" in refusal(TEXT, WORKDIR, of_a_file, f"{path}={tmp_path}/t.json")
    assert "is a folder" in refusal(TEXT, WORKDIR, of_a_file, f"{path}={tmp_path}")
    cache = f"--config.data.cache_dir={tmp_path}/text.txt"
    assert "is a file: give a folder" in refusal(TEXT, WORKDIR, cache)


def test_a_long_wrong_value_is_cut(refusal):
    assert len(refusal(TEXT, WORKDIR, f"--config.train.steps={'9' * 5000}")) < 300
    assert len(refusal(TEXT, WORKDIR, f"--config.model.norm={'x' * 5000}")) < 300


def test_sound_that_does_not_fit_itself_is_refused(refusal):
    of_sound = (TEXT, WORKDIR, "--config.task.name=speech_recognition",
                "--config.model.architecture=conformer", "--config.checkpoint.best_metric=wer",
                "--config.data.source=tones")  # fmt: skip
    for given, words in {
        "hop_milliseconds=30": "what is between two windows would be in no frame",
        "augmentation.gain_decibels=6": "has no effect: data.normalization is bands",
        "augmentation.time_mask_frames=6": "has no effect: time_masks is 0",
        "augmentation.noise_lowest_ratio=50": "is less than data.augmentation.noise_lowest_ratio",
        "augmentation.crop=padded": "belongs to",
        "sequence_length=64": "belongs to data.source=",
        "recordings=600": "use at most 500",
    }.items():
        more = ["--config.data.most_digits=3"] if given.startswith("recordings") else []
        message = refusal(*of_sound, *more, f"--config.data.{given}")
        assert words in message, message
    masks = [f"--config.data.augmentation.frequency_mask{more}" for more in ("s=1", "_bands=40")]
    assert "could mask all of data.num_mels=40" in refusal(*of_sound, *masks)


def test_prompts_from_the_text_are_refused_for_conversations(refusal):
    given = ("--config.data.source=conversations", "--config.task.sample_prompts=none")
    message = refusal(TEXT, WORKDIR, *given)
    assert "task.sample_prompts=none takes lines of a text" in message


def test_a_flag_misspelt_is_nearer_than_a_field_that_is_less_alike():
    with pytest.raises(UsageError, match=r"unknown flag --prot: did you mean --port\?"):
        parse_command_line(["--workdir=a", "--prot=1"], serve.FLAGS, overrides=True)
