"""CMU-MOSI: sentiment of film reviews from text, audio and video of an utterance."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32
from numpy.typing import NDArray

from mmbench.data.affect import sequences
from mmbench.data.files import locate, read_csv, read_matrix, same_length
from mmbench.data.parsed import Arrays, parsed
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import grouped, stable_ids
from mmbench.data.task import Modality, Task
from mmbench.data.vocabulary import encode, vocabulary, words
from mmbench.datamodule import DataModule, Source

WIDTHS = {"text": 100, "audio": 73, "video": 100}
OUTPUTS = {
    "binary": ("negative", "positive"),
    "seven": tuple(f"{k:+d}" if k else "0" for k in range(-3, 4)),
    "score": ("sentiment",),
}
VAL = 0.3  # of the test0 rows
SPLIT_NAMES: dict[str, Split] = {"train": "train", "valid": "val", "test": "test"}


class CmuMosi(DataModule):
    """2,199 opinion utterances from 93 videos, with features of one vector a modality.

    Format, in `cmu_mosi/` (files may be compressed: .xz, .gz):

    - `{text,audio,video}_{train0,test0}.csv`, no header, one row an utterance: features, then
      the label 0 / 1. Text: 100 features of a text CNN; audio: 73 of openSMILE; video: 100 of a
      3D CNN, 32 of which are constant (the base scales those to zero). Values are left raw.
    - `rows_{train,test}.csv`, header `transcript_row`: for each feature row the 0-based row of
      `transcripts.csv` that it belongs to. In the authors' repository this is the first column
      of `text_train.csv` and `text_test.csv`.
    - `transcripts.csv`, no header: utterance, its words in capitals, number of the video, label.
    - `mosi_labels.csv`, header `utterance,video,split,score`: score -3..3, split train / valid /
      test. Read only if it is needed: for `target` seven or score, `partition` standard.

    Where to get it: the features from the first repository below, scores and the standard split
    from the second; pickles from the pages of MMSA and MultiBench.

    Missing by nature: nothing.

    Targets. `binary`: the label of the feature files, positive = score >= 0: 1,023 negative,
    1,176 positive, 96 of which have a score of exactly 0. Papers that leave these 96 out
    (1,023 / 1,080) report another number; take `target=score` for that. `seven`: the score
    rounded to -3..3, halves to the even neighbour as numpy and the usual scripts do (52
    utterances end in .5). `score`: the score itself, a regression.

    Splits. `file`: the rows of the train0 and test0 files (1,447 from 62 videos, 752 from 31);
    whole videos with about 30 % of the test0 rows, chosen by a hash of the video, are the
    validation part, so no two parts share a video. `standard`: the usual 1,284 / 229 / 686 of
    `mosi_labels.csv` (52, 10 and 31 videos). The sample id is a hash of the utterance.

    The text and video features carry the labels of the train0 rows: the networks that made them
    were trained on those. A linear probe of the sign, trained on 52 of their videos, is right on
    .98 (text) and .89 (video) of the rows of the other ten, and on .76 and .53 of the test0 rows;
    for audio it is .50 and .57. So validation is not cut out of train0, where all that is tried
    looks perfect. Under `standard`, 558 of the 686 test rows are train0 rows, and there a probe
    on text reaches .92, against .71 on the other 128: these features give no honest score there.
    Take `file`, or a pickle.

    Sequences. With `pickle`, a file of MMSA (`aligned_50.pkl`, `unaligned_50.pkl`) or MultiBench
    (`mosi_data.pkl`) is read in place of all files above: text, audio and video are sequences, the
    split is its own, the standard one; see `mmbench.data.affect` for its layout, what becomes of
    padding and of -inf, and what is absent (text that is 0 throughout, which papers drop). Only
    arrays and plain values are unpickled; anything else is refused by name.

    Args:
        root: Folder that has `cmu_mosi/`.
        scenario: See `DataModule`.
        text: `features`, or `tokens`: the words of the transcript, numbered by those that
            occur twice in the training part.
        target: See above.
        partition: See above.
        pickle: File below `root` that is read in place of the others; empty = none.
        **common: Passed to `DataModule`; fold is 0; there is one partition of each kind.
    """

    source = Source(
        citation="Zadeh et al., MOSI: Multimodal Corpus of Sentiment Intensity and Subjectivity "
        "Analysis in Online Opinion Videos, arXiv 1606.06259, 2016; features: Poria et al., "
        "Context-Dependent Sentiment Analysis in User-Generated Videos, ACL 2017",
        url="https://github.com/declare-lab/multimodal-deep-learning (bc-LSTM/data); scores and "
        "standard split: https://github.com/wxxv/MoMKE",
        licence="MIT (the repository with the features)",
        papers=(
            "MoE-Retriever: 2,199 clips, 70 / 15 / 15 %; each modality hidden with probability .3; "
            "sequences through a GRU of width 256; accuracy",
            "MoMKE: the standard split 1,284 / 229 / 686, sequences of features of its own",
        ),
    )
    files: ClassVar[tuple[str, ...]] = (
        *(f"cmu_mosi/{name}_{part}0.csv" for name in WIDTHS for part in ("train", "test")),
        "cmu_mosi/rows_train.csv",
        "cmu_mosi/rows_test.csv",
        "cmu_mosi/transcripts.csv",
        "cmu_mosi/mosi_labels.csv",
    )

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        text: Literal["features", "tokens"] = "features",
        target: Literal["binary", "seven", "score"] = "binary",
        partition: Literal["file", "standard"] = "file",
        pickle: str = "",
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        if pickle and partition != "file":
            raise ValueError(f"{pickle} has its own split; leave partition={partition} out")
        self.pickle = pickle
        if pickle:
            self.files = (pickle,)  # type: ignore[misc]  # not of the class
        self.text = text
        self.target = target
        self.partition = partition

    def describe(self) -> Task:
        """Three vectors or sequences; text may be token ids, for which transcripts are read."""
        modalities = [Modality(name, "vector", (width,)) for name, width in WIDTHS.items()]
        if self.pickle:
            shapes = {name: self._sequences[name].shape[1:] for name in WIDTHS}
            modalities = [Modality(name, "sequence", shape) for name, shape in shapes.items()]
        if self.text == "tokens":
            size = 2 + len(self._vocabulary)  # padding and unknown words
            modalities[0] = Modality("text", "tokens", (self._steps,), vocab_size=size)
        kind: Literal["regression", "single_label"]
        kind = "regression" if self.target == "score" else "single_label"
        return Task(kind, tuple(modalities), OUTPUTS[self.target])

    def load(self, split: Split) -> Samples:
        """Read one split; everything is present, unless a pickle lacks it.

        Raises:
            ValueError: If a file is not there or is not laid out as described, or the files do
                not belong together; the message names the file and the row.
        """
        if self.pickle:
            return self._from_pickle(split)
        index = self._index[self._index["split"] == split]
        inputs: dict[str, NDArray[Any]] = {}
        lengths = {}
        for name in WIDTHS:
            if name == "text" and self.text == "tokens":
                texts = index["text"].tolist()
                inputs[name], lengths[name] = encode(texts, self._vocabulary, steps=self._steps)
            else:
                inputs[name] = self._features(name)[index["feature_row"].to_numpy()]
        return Samples(
            modalities=tuple(WIDTHS),
            inputs=inputs,
            target=self._target(lambda column: index[column].to_numpy()),
            sample_id=stable_ids(index["utterance"].tolist()),
            presence=np.ones((len(index), len(WIDTHS)), bool),
            lengths=lengths,
        )

    def _target(self, column: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        if self.target == "binary":
            return column("label").astype(np.int64)
        score = column("score").astype(np.float64)
        if self.target == "score":
            return score[:, None].astype(np.float32)
        return np.clip(np.round(score), -3, 3).astype(np.int64) + 3

    def _from_pickle(self, split: Split) -> Samples:
        rows = self._sequences["split"] == SPLITS.index(split)
        arrays = {name: x[rows] for name, x in self._sequences.items() if name != "notes"}
        arrays["label"] = arrays["score"] >= 0
        inputs = {name: arrays[name] for name in WIDTHS}
        lengths = {name: arrays[f"{name}_length"] for name in WIDTHS}
        if self.text == "tokens":
            texts = arrays["words"].tolist()
            inputs["text"], lengths["text"] = encode(texts, self._vocabulary, steps=self._steps)
        return Samples(
            modalities=tuple(WIDTHS),
            inputs=inputs,
            target=self._target(arrays.__getitem__),
            sample_id=stable_ids(arrays["id"].tolist()),
            presence=arrays["presence"],
            lengths=lengths,
        )

    @cached_property
    def _sequences(self) -> Arrays:
        path = locate(self.root, self.pickle)
        module = "mmbench.data.affect"
        arrays = parsed([path], {"what": "sequences"}, lambda _: sequences(path), code=module)
        if self.text == "tokens" and not arrays["words"].any():
            raise ValueError(f"{path} has no raw_text to make tokens of; leave text=tokens out")
        return arrays

    def notes(self) -> tuple[str, ...]:
        """What a pickle held that was replaced or left out."""
        return tuple(self._sequences["notes"].tolist()) if self.pickle else ()

    def names_of_ids(self) -> Mapping[int, str]:
        """Names of the utterances."""
        names = self._sequences["id"] if self.pickle else self._index["utterance"]
        return dict(zip(stable_ids(names.tolist()).tolist(), names.tolist(), strict=True))

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        if self.pickle:
            train = self._sequences["split"] == SPLITS.index("train")
            return vocabulary(self._sequences["words"][train].tolist())
        return vocabulary(self._index.loc[self._index["split"] == "train", "text"])

    @cached_property
    def _steps(self) -> int:
        texts = self._sequences["words"].tolist() if self.pickle else self._index["text"]
        return max(len(words(text)) for text in texts)

    def _features(self, name: str) -> Float32[np.ndarray, "row feature"]:
        """The features of one modality, train0 rows before test0 rows."""
        parts = []
        for part in ("train", "test"):
            path = locate(self.root, f"cmu_mosi/{name}_{part}0.csv")
            values = read_matrix(path, width=WIDTHS[name] + 1)
            rows = self._index[self._index["part"] == part]
            same_length({str(path): len(values), f"cmu_mosi/rows_{part}.csv": len(rows)})
            wrong = values[:, -1] != rows["label"].to_numpy()
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                raise ValueError(
                    f"{path} row {row + 1} has the label {values[row, -1]:g}, but its transcript "
                    f"{rows['utterance'].iloc[row]} has {rows['label'].iloc[row]}; the rows of "
                    "the two files are not in step"
                )
            parts.append(values[:, :-1])
        return np.concatenate(parts)

    @cached_property
    def _index(self) -> pd.DataFrame:
        """One row a feature row: utterance, text, video, label, part, feature_row, split."""
        path = locate(self.root, "cmu_mosi/transcripts.csv")
        # text stays text: an utterance may well be the word NULL, and a label that is no number
        # must not turn all others into text
        table = read_csv(path, header=None, dtype=str, keep_default_na=False)
        if table.shape[1] != 4:
            raise ValueError(f"{path} has {table.shape[1]} columns, but 4 are expected")
        table.columns = pd.Index(["utterance", "text", "video", "label"])
        _refuse(table["utterance"].duplicated(), path, "utterance occurs twice", table["utterance"])
        _refuse(table["video"] == "", path, "video is empty", table["video"])
        _refuse(~table["label"].isin(["0", "1"]), path, "label is neither 0 nor 1", table["label"])
        parts = [self._rows(part, len(table)) for part in ("train", "test")]
        index = table.iloc[np.concatenate([rows["row"] for rows in parts])].reset_index(drop=True)
        index["label"] = index["label"].astype(int)
        index["part"] = np.concatenate([rows["part"] for rows in parts])
        index["feature_row"] = np.arange(len(index))
        repeated = index["utterance"].duplicated()
        if repeated.any():
            raise ValueError(
                f"utterance {index.loc[repeated, 'utterance'].iloc[0]} belongs to two feature "
                "rows, says cmu_mosi/rows_{train,test}.csv"
            )
        if self.target != "binary" or self.partition == "standard":
            index = self._with_labels(index)
        if self.partition == "file":
            index["split"] = index["part"]
            unseen = index[index["part"] == "test"]
            ids = stable_ids(unseen["utterance"].tolist())
            chosen = grouped(ids, unseen["video"].to_numpy(str), share=VAL)
            index.loc[unseen.index[chosen], "split"] = "val"
        return index

    def _rows(self, part: str, transcripts: int) -> pd.DataFrame:
        path = locate(self.root, f"cmu_mosi/rows_{part}.csv")
        table = read_csv(path)
        if list(table.columns) != ["transcript_row"]:
            raise ValueError(f"{path} has no single column transcript_row, but {[*table.columns]}")
        row = pd.to_numeric(table["transcript_row"], errors="coerce")
        _refuse(
            ~row.isin(range(transcripts)),
            path,
            f"transcript_row is not in 0..{transcripts - 1}",
            table["transcript_row"],
            header=1,
        )
        return pd.DataFrame({"row": row.astype(int), "part": part})

    def _with_labels(self, index: pd.DataFrame) -> pd.DataFrame:
        path = locate(self.root, "cmu_mosi/mosi_labels.csv")
        table = read_csv(path, dtype=str, keep_default_na=False)
        if missing := [c for c in ("utterance", "split", "score") if c not in table.columns]:
            raise ValueError(f"{path} has no column {missing[0]}; it has {[*table.columns]}")
        _refuse(
            table["utterance"].duplicated(), path, "utterance occurs twice", table["utterance"],
            header=1,
        )  # fmt: skip
        score = pd.to_numeric(table["score"], errors="coerce")
        _refuse(~score.between(-3, 3), path, "score is not in -3..3", table["score"], header=1)
        known = table["split"].isin(SPLIT_NAMES)
        _refuse(~known, path, "split is none of train, valid, test", table["split"], header=1)
        table = table.assign(score=score, split=table["split"].map(SPLIT_NAMES))
        joined = index.merge(table[["utterance", "split", "score"]], on="utterance", how="left")
        if (lost := joined["score"].isna()).any():
            raise ValueError(f"{path} has no utterance {joined.loc[lost, 'utterance'].iloc[0]}")
        return joined


def _refuse(
    bad: "pd.Series[bool]", path: Path, why: str, values: "pd.Series[Any]", *, header: int = 0
) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{path} row {row + 1 + header}: {why}, found {values.iloc[row]!r}")
