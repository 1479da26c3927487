r"""A small Conformer that transcribes spoken words, character by character.

python train.py --config=configs/speech_conformer_ctc.py --workdir=runs/speech \
    --config.data.path=MANIFEST

The manifest has a row for each recording, with its `path` and `text` (docs/data.md). Then:
python generate.py --workdir=runs/speech --input=FILE. On the Free Spoken Digit Dataset, with digits
written as words: test word error rate 1.3 % after 8 minutes on 2 CPU cores (docs/results.md).
"""

from configs import base, speech_classification


def get_config():
    config = base.speech_recognition(source="sound_transcripts", architecture="conformer")
    config.data.sample_rate = 8000
    config.data.num_mels = 40
    config.data.normalization = "recording"
    config.data.length_buckets = 2
    config.data.augmentation = speech_classification.get_config().data.augmentation
    config.data.global_batch_size = 32

    config.model.width = 96
    config.model.depth = 3
    config.model.num_heads = 4
    config.model.convolution_size = 15
    config.model.subsampling = 2
    config.model.subsampling_channels = 16
    config.model.dropout = 0.1

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.train.steps = 3000
    config.train.ema_decay = 0.995
    config.train.evaluate_every_steps = 500
    config.checkpoint.every_steps = 1000
    return config
