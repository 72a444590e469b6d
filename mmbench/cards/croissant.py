"""Data sets and presence tables as Croissant: JSON-LD that search engines and papers ask for.

Format: MLCommons Croissant 1.0 with its vocabulary for responsible AI, RAI 1.0. A property that no
class declares (who is in the data, who annotated them) is left out rather than guessed.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbench import __version__
from mmbench.cards.about import class_doc, module_doc, paragraphs
from mmbench.cards.citation import of_data
from mmbench.config import JSON
from mmbench.data.files import content_of, locate
from mmbench.data.masks import PresenceTable
from mmbench.data.missingness.measure import realised
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.datamodule import DataModule

TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject",
    "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
    "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, JSON] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in TERMS},
}
CONFORMS = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
FORMATS = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet",
}
TEXT, WHOLE, SHARE = "sc:Text", "sc:Integer", "sc:Float"


def of_data_set(name: str, data: DataModule) -> str:
    """Terms, files with their checksums, modalities, splits, classes, and what is missing.

    Raises:
        ValueError: If a file is not there or cannot be read.
    """
    cls, source, said = type(data), data.source, paragraphs(type(data))
    splits = {split: data.samples(split) for split in SPLITS}
    cited = of_data(name, cls)
    about = "\n\n".join(dict.fromkeys(filter(None, (module_doc(cls), class_doc(cls)))))
    lost = [f"{split}: {_lost(samples)}" for split, samples in splits.items()]
    plan = "What is published under this name is not changed; a change is another data set."
    if source.superseded_by:
        plan += f" This one is superseded by {source.superseded_by}."
    responsible = {
        "dataCollectionMissingData": "Modalities that samples lack by nature. " + " ".join(lost),
        "dataCollection": said.get("Format", ""),
        "dataPreprocessingProtocol": [
            "Features and channels are standardised by the entries that training shows.",
            *data.notes(),
        ],
        "dataManipulationProtocol": said.get("Split", ""),
        "dataImputationProtocol": "A modality that is absent stays absent and is not filled in.",
        "dataUseCases": ["Comparison of multimodal methods when modalities are missing."],
        "dataLimitations": [said[key] for key in ("Sanity", "Leak", "Leaks") if key in said],
        "dataReleaseMaintenancePlan": plan,
    }
    described = {
        "name": name,
        "description": about,
        "license": source.licence,
        "url": cited.url,
        "citeAs": source.citation,
        "datePublished": cited.year,
        "distribution": [*_files(data), *_shipped(cls, source.checksum)],
        "recordSet": _records(data, splits),
    }
    return _dataset(described, responsible)


def of_table(file: Path) -> str:
    """A presence table: its columns, checksum, how it was drawn, and what came of it.

    Raises:
        ValueError: If it is none, or holds no sample.
    """
    table = PresenceTable.load(file)
    if not len(table.sample_id):
        raise ValueError(f"{file} holds no sample to describe")
    rates = realised(table.presence, np.ones_like(table.presence), table.modalities)
    drawn = json.dumps(dict(table.drawn), sort_keys=True)
    cells = zip(table.sample_id.tolist(), table.presence.astype(int).tolist(), strict=True)
    names = ("sample_id", *table.modalities)
    rows = [dict(zip(names, (sample, *flags), strict=True)) for sample, flags in cells]
    described = {
        "name": file.stem,
        "description": "Which modalities each sample shows, 1 = shown. The rows stand in this "
        "description, since readers of its format do not skip the three lines that begin with # "
        f"before the header of the file. Drawn as: {drawn}",
        "license": "Apache-2.0",
        "distribution": [_file(file.name, file)],
        "recordSet": [_inline("presence", rows)],
    }
    responsible = {
        "dataCollectionMissingData": f"{rates.missing_rate:.4f} of the entries are hidden; "
        f"{rates.incomplete_rate:.4f} of {len(table.sample_id)} samples lack something.",
        "dataManipulationProtocol": f"Drawn by mmbench: {drawn}",
        "dataUseCases": ["The same missing modalities for every method that is compared."],
    }
    return _dataset(described, responsible)


def _dataset(described: Mapping[str, Any], responsible: Mapping[str, Any]) -> str:
    whole = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        **described,
        "version": __version__,
        **{f"rai:{term}": value for term, value in responsible.items()},
    }
    filled = {key: value for key, value in whole.items() if value not in ("", [])}
    return json.dumps(filled, indent=1, ensure_ascii=False) + "\n"


def _lost(samples: Samples) -> str:
    shares = 1 - samples.presence.mean(axis=0)
    parts = [
        f"{name} {share:.4f}"
        for name, share in zip(samples.modalities, shares, strict=True)
        if share
    ]
    return f"{len(samples)} samples, " + (", ".join(parts) or "nothing") + "."


def _records(data: DataModule, splits: Mapping[Split, Samples]) -> list[JSON]:
    task = data.task
    modalities = [
        {
            "name": modality.name,
            "kind": modality.kind,
            "shape": " x ".join(map(str, modality.shape)),
            **{
                f"missing_{split}": round(1 - float(samples.presence[:, column].mean()), 6)
                for split, samples in splits.items()
            },
        }
        for column, modality in enumerate(task.modalities)
    ]
    sizes = [
        {"name": split, "samples": len(samples), "first_id": int(samples.sample_id.min())}
        for split, samples in splits.items()
    ]
    outputs: list[dict[str, Any]] = [{"name": str(output)} for output in task.outputs]
    if task.kind in ("single_label", "multi_label"):
        for split, samples in splits.items():
            counts = (
                np.bincount(samples.target, minlength=task.num_outputs)
                if task.kind == "single_label"
                else samples.target.sum(axis=0)
            )
            for output, count in zip(outputs, counts, strict=True):
                output[split] = int(count)
    tables: dict[str, list[dict[str, Any]]] = {
        "modalities": modalities,
        "splits": sizes,
        task.kind: outputs,
    }
    return [_inline(name, rows) for name, rows in tables.items()]


def _inline(name: str, rows: Sequence[Mapping[str, Any]]) -> JSON:
    """A table that stands in the description itself."""
    types = {str: TEXT, int: WHOLE, float: SHARE}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "dataType": types[type(value)],
            }
            for column, value in rows[0].items()
        ],
        "data": [{f"{name}/{column}": value for column, value in row.items()} for row in rows],
    }


def _files(data: DataModule) -> Iterable[JSON]:
    """The user's files; a folder of them has no checksum and is left out."""
    paths = {name: locate(data.root, name) for name in data.files}
    return [_file(name, path) for name, path in paths.items() if path.is_file()]


def _shipped(cls: type, checksum: str) -> Iterable[JSON]:
    """The file that comes with the package, found by its checksum."""
    home = Path(inspect.getfile(cls)).parent / "assets"
    if not checksum or not home.is_dir():
        return []
    candidates = [path for path in sorted(home.iterdir()) if path.is_file()]
    return [_file(path.name, path) for path in candidates if content_of(path) == checksum]


def _file(name: str, path: Path) -> JSON:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
