"""From a text to a backbone: "small", "packaged" or "vilt:/folder"."""

from pathlib import Path

from mmbench.data.task import Task
from mmbench.layers.backbones import Backbone, SmallBackbone


def backbone(
    text: str, task: Task, *, dim: int = 64, depth: int = 4, dropout: float = 0.1
) -> Backbone:
    """Make a backbone from a text.

    Args:
        text: "small"; "packaged", networks that install as packages; or a model and the local
            folder with its configuration, weights, tokenizer and preprocessor:
            "vilt:/folder", "clip:/folder", "blip2:/folder".
        task: Whose modalities are read.
        dim: D of the small one.
        depth: L of the small one.
        dropout: Of the small one, while it learns.

    Raises:
        ValueError: If there is no such backbone, or it does not fit the task.
    """
    if text == "small":
        return SmallBackbone(task, dim=dim, depth=depth, dropout=dropout)
    kind, _, folder = text.partition(":")
    if text != "packaged" and (kind not in ("vilt", "clip", "blip2") or not folder):
        raise ValueError(
            f"no backbone {text!r}; take small, packaged, or vilt:/folder, clip:/folder or "
            "blip2:/folder"
        )
    from mmbench.layers import pretrained_backbones  # slow to import

    if text == "packaged":
        return pretrained_backbones.packaged(task)
    made: Backbone = getattr(pretrained_backbones, kind)(task, Path(folder).expanduser())
    return made
