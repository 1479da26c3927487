"""Data sources of recordings, their mel spectrograms, and their augmentation."""

from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from configs.schema.settings import (
    Count,
    FilePath,
    Fraction,
    NonNegativeInteger,
    PlainText,
    Probability,
    Settings,
    field,
)
from configs.schema.source import DecodedText, LengthBuckets, PreparedSet, Shards, Source, UserFiles
from configs.schema.tokenizers import Characters, Tokenizer

Decibels = Annotated[float, Interval(ge=-100.0, le=100.0)]
Milliseconds = Annotated[float, Interval(ge=1.0, le=1000.0)]
Seconds = Annotated[float, Interval(gt=0.0, le=100_000.0)]


class SoundAugmentation(Settings):
    """Random augmentation of training recordings, drawn anew at each read. Off by default."""

    shift_milliseconds: Annotated[float, Interval(ge=0.0, le=10_000.0)] = field(
        0.0,
        "Largest time shift, forward or backward. Silence fills the gap.",
        unit="milliseconds",
        aliases=("time_shift", "shift"),
    )
    speed: Annotated[float, Interval(ge=0.0, le=0.5)] = field(
        0.0,
        "Largest change of speed and pitch: a random factor from 1 - this to 1 + this.",
        aliases=("speed_perturbation", "speed_perturb", "tempo"),
    )
    gain_decibels: Annotated[float, Interval(ge=0.0, le=60.0)] = field(
        0.0,
        "Largest change of loudness, up or down.",
        unit="decibels",
        aliases=("gain", "volume"),
    )
    noise_probability: Probability = field(
        0.0, "Probability that white noise is added.", aliases=("noise", "add_noise", "noise_prob")
    )
    noise_lowest_ratio: Decibels = field(
        10.0,
        "Lowest signal-to-noise ratio of added noise, over the whole recording.",
        unit="decibels",
        aliases=("min_snr_db", "snr_low"),
    )
    noise_highest_ratio: Decibels = field(
        40.0,
        "Highest signal-to-noise ratio of added noise.",
        unit="decibels",
        aliases=("max_snr_db", "snr_high"),
    )
    frequency_masks: NonNegativeInteger = field(
        0,
        "Number of SpecAugment masks over neighbouring mel bands.",
        aliases=("freq_masks", "num_freq_masks", "specaugment", "spec_augment"),
    )
    frequency_mask_bands: Count = field(
        15,
        "Largest width of a frequency mask.",
        unit="bands",
        aliases=("freq_width", "freq_mask_param", "mask_feature_length"),
    )
    time_masks: NonNegativeInteger = field(
        0, "Number of SpecAugment masks over neighbouring frames.", aliases=("num_time_masks",)
    )
    time_mask_frames: Count = field(
        100,
        "Largest width of a time mask.",
        unit="frames",
        aliases=("time_width", "time_mask_param", "mask_time_length"),
    )
    time_mask_fraction: Annotated[float, Interval(gt=0.0, le=1.0)] = field(
        0.2, "Largest width of a time mask, as a share of the recording.", aliases=("time_ratio",)
    )

    def unused_fields(self) -> dict[str, str]:
        reasons: dict[str, str] = {}
        if not self.noise_probability:
            names = ("noise_lowest_ratio", "noise_highest_ratio")
            reasons |= dict.fromkeys(names, "noise_probability is 0")
        if not self.frequency_masks:
            reasons["frequency_mask_bands"] = "frequency_masks is 0"
        if not self.time_masks:
            names = ("time_mask_frames", "time_mask_fraction")
            reasons |= dict.fromkeys(names, "time_masks is 0")
        return reasons

    def check(self) -> None:
        low, high = self.noise_lowest_ratio, self.noise_highest_ratio
        if high < low:
            raise ValueError(
                f"data.augmentation.noise_highest_ratio={high:g} is less than "
                f"data.augmentation.noise_lowest_ratio={low:g}"
            )


SampleRate = Annotated[int, Interval(ge=1000, le=192_000)]
NumMels = Annotated[int, Interval(ge=4, le=512)]


class Sound(Source):
    """Base class of data sources of recordings."""

    may_break: ClassVar = True

    sample_rate: SampleRate = field(
        16_000,
        "Sample rate that recordings are resampled to, such as 8000 for telephone speech.",
        unit="samples per second",
        aliases=("sampling_rate", "sr", "rate"),
    )
    num_mels: NumMels = field(
        80,
        "Number of mel bands of a frame.",
        unit="bands",
        aliases=("n_mels", "num_mel_bins", "mel_bins", "nfilt", "feature_size"),
    )
    window_milliseconds: Milliseconds = field(
        25.0,
        "Length of the window that a frame is computed from.",
        unit="milliseconds",
        aliases=("win_length", "frame_length", "window_size"),
    )
    hop_milliseconds: Milliseconds = field(
        10.0,
        "Time from the start of a frame to the start of the next.",
        unit="milliseconds",
        aliases=("hop_length", "frame_shift", "window_stride", "stride"),
    )
    normalization: Literal["bands", "recording", "none"] = field(
        "bands",
        "Normalisation to mean 0 and variance 1 over a recording: of each band, or of all bands "
        "together. Both remove loudness.",
        aliases=("normalize", "cmvn", "per_feature", "all_features"),
    )
    max_seconds: Seconds | None = field(
        None,
        "Longest recording; longer recordings are left out of all splits. none: four hours.",
        unit="seconds",
        aliases=("max_duration", "max_length", "max_duration_in_seconds", "max_input_length"),
    )
    length_buckets: LengthBuckets = field(
        4,
        "Largest number of lengths that recordings are padded to. More lengths mean less padding, "
        "but more train steps to compile.",
    )
    broken_fraction: Fraction = field(
        0.05,
        "Largest share of recordings that may be unreadable; with more, data preparation fails.",
    )
    augmentation: SoundAugmentation = field(
        SoundAugmentation(), "Random augmentation of training recordings."
    )

    def unused_fields(self) -> dict[str, str]:
        if self.normalization == "none":
            return {}
        why = f"data.normalization is {self.normalization}, which takes all loudness out"
        return {"augmentation.gain_decibels": why}

    def check(self) -> None:
        if self.hop_milliseconds > self.window_milliseconds:
            raise ValueError(
                f"data.hop_milliseconds={self.hop_milliseconds:g} is more than "
                f"data.window_milliseconds={self.window_milliseconds:g}: what is between two "
                "windows would be in no frame"
            )
        masks = self.augmentation
        if masks.frequency_masks and masks.frequency_mask_bands >= self.num_mels:
            raise ValueError(
                f"data.augmentation.frequency_mask_bands={masks.frequency_mask_bands} could mask "
                f"all of data.num_mels={self.num_mels}: use fewer"
            )


class TranscriptCleaning(Settings):
    """Cleaning of transcripts before tokenization."""

    unicode: Literal["none", "nfc", "nfkc"] = field(
        "nfc",
        "Unicode normalization form that transcripts are converted to. nfc changes nothing that is "
        "seen: it makes one character of a letter and its accents.",
    )


class Transcribed(Sound):
    """Base class of data sources of transcribed recordings."""

    modality: ClassVar = "transcribed_sound"
    has_tokenizer: ClassVar = True

    lowercase: bool = field(
        False, "Whether transcripts are converted to lower case.", aliases=("do_lower_case",)
    )
    cleaning: TranscriptCleaning = field(TranscriptCleaning(), "Cleaning of transcripts.")
    tokenizer: Tokenizer = field(Characters(), "Tokenizer of transcripts.")


class Transcripts(Transcribed):
    """Base class of data sources of recordings whose transcripts are in a field."""

    text_field: PlainText = field("text", "Field, column or feature that contains the transcript.")


class Labels(Sound):
    """Base class of data sources of labelled recordings."""

    modality: ClassVar = "labelled_sound"

    label_field: PlainText = field("label", "Field, column or feature that contains the label.")


class Manifest(DecodedText, UserFiles):
    """The storage of sources that read the user's recordings, and a table of them."""

    path: FilePath | None = field(
        meaning="Manifest with a row per recording: .jsonl, .json, .csv, .tsv (each may be "
        "compressed) or .parquet; or a folder with train.jsonl, validation.jsonl, test.jsonl.",
    )
    path_field: PlainText = field(
        "path",
        "Field or column that contains the recording's path, relative to the manifest's folder.",
        aliases=("audio_field", "audio_filepath", "file_field"),
    )

    def missing_path(self) -> str:
        return (
            "say where the recordings are listed, --config.data.path=FILE (.jsonl, .csv, .tsv or "
            ".parquet), or a folder with train.jsonl, test.jsonl"
        )


class SoundField(Settings):
    """The field of sources whose recording is in a field."""

    sound_field: PlainText = field(
        "audio",
        "Feature of the data set that contains the recording.",
        aliases=("audio_field", "speech"),
    )


class SoundTranscripts(Manifest, Transcripts):
    """The user's recordings with transcripts: WAV, FLAC, OGG or MP3, with any sample rate."""

    source: Literal["sound_transcripts"] = "sound_transcripts"


class SoundLabels(Manifest, Labels):
    """The user's recordings with labels: WAV, FLAC, OGG or MP3, with any sample rate."""

    source: Literal["sound_labels"] = "sound_labels"


class TFDSSoundTranscripts(SoundField, PreparedSet, Transcripts):
    """Recordings with transcripts that TensorFlow Datasets prepared as ArrayRecord files."""

    source: Literal["tfds_sound_transcripts"] = "tfds_sound_transcripts"


class TFDSSoundLabels(SoundField, PreparedSet, Labels):
    """Recordings with labels that TensorFlow Datasets prepared as ArrayRecord files."""

    source: Literal["tfds_sound_labels"] = "tfds_sound_labels"


class SoundShards(SoundField, Shards):
    """The storage of sources that read WebDataset's shards with recordings."""

    sound_field: PlainText = field(
        "flac;wav;mp3;ogg",
        "Field of a sample that contains the recording. Of several names, separated by semicolons, "
        "the first that the sample has.",
    )


class WebDatasetSoundTranscripts(SoundShards, Transcripts):
    """WebDataset's shards with recordings and their transcripts."""

    source: Literal["webdataset_sound_transcripts"] = "webdataset_sound_transcripts"
    text_field: PlainText = "txt"


class WebDatasetSoundLabels(SoundShards, Labels):
    """WebDataset's shards with recordings and their labels."""

    source: Literal["webdataset_sound_labels"] = "webdataset_sound_labels"
    label_field: PlainText = "cls"


class Tones(Transcribed):
    """Generated recordings of telephone numbers as push-button (DTMF) tones, with transcripts."""

    source: Literal["tones"] = "tones"
    sample_rate: SampleRate = 8_000
    num_mels: NumMels = 40
    recordings: Count = field(
        2000,
        "Number of training recordings, before validation is held out. The test split has a tenth "
        "as many.",
        unit="recordings",
    )
    most_digits: Annotated[int, Interval(ge=3, le=18)] = field(
        8, "Length of the longest telephone number; the shortest has 3 digits.", unit="digits"
    )
    lowest_ratio: Decibels = field(
        0.0,
        "Lowest signal-to-noise ratio; the highest is 30 decibels more.",
        unit="decibels",
        aliases=("snr", "min_snr_db"),
    )

    def check(self) -> None:
        super().check()
        most = 10**self.most_digits // 2
        if self.recordings > most:
            raise ValueError(
                f"data.recordings={self.recordings} are more different numbers than "
                f"data.most_digits={self.most_digits} gives in reasonable time: use at most {most}"
            )


AnySound = (
    SoundTranscripts
    | SoundLabels
    | TFDSSoundTranscripts
    | TFDSSoundLabels
    | WebDatasetSoundTranscripts
    | WebDatasetSoundLabels
    | Tones
)
