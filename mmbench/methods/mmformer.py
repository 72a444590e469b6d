"""mmFormer: attend within each modality, zero what is missing, attend across modalities.

Paper: Zhang et al., "mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning
of Brain Tumor Segmentation", MICCAI 2022.
Idea: one transformer a modality, then one over the tokens of all modalities, in which those of
a missing modality are zero. Auxiliary heads force each encoder to be useful alone, and training
meets every subset of the modalities.
Notation: presence (B, M); z = encoder tokens (B, M, P, D); own = after the intra-modal
transformer; kept = own with zeros where absent; both = after the inter-modal transformer.
Differences from the paper:
- The paper segments volumes. This is its classification form: the suite's own encoders give the
  tokens, and every decoder is a head. As a decoder keeps the place of each voxel, heads read all
  tokens side by side and average none.
- The released code cuts what comes out of the inter-modal transformer so that neighbouring tokens
  of one modality stand in for the modalities of one place; here every token keeps its own.
- As in the paper, zeroed tokens are attended to; `key_mask` leaves them out instead.
- Auxiliary heads use plain cross-entropy (the paper: weighted cross-entropy and Dice).
- Training hides a uniformly drawn subset of what a sample has, so that natural gaps are allowed.
- Four heads of width 32 and MLPs of 4D (the released code: eight of 64, and 8D); AdamW without a
  schedule, as every method of the suite, for Adam with a polynomial decay.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.attention import PreNormBlock
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_pattern
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Choice, Whole, ranges

Tokens = Float[Tensor, "batch modality token dim"]


class MMFormer(Method):
    """mmFormer, classification form.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of a token.
        tokens: P, tokens for each modality.
        heads: Attention heads; has to divide `dim`.
        depth: Layers of the intra-modal and of the inter-modal transformer, >= 1.
        dropout: In [0, 1).
        key_mask: Whether tokens of absent modalities are left out of attention and pooling
            instead of being attended to as zeros.
        unimodal: Whether the head on each modality alone takes part in the loss.
        progressive: Whether the heads on the inputs and outputs of the inter-modal transformer
            take part in the loss.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.
    """

    paper = Paper(
        "mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of Brain "
        "Tumor Segmentation",
        "MICCAI",
        2022,
        "https://arxiv.org/abs/2206.02425",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        tokens=Choice((4, 8, 16)),
        depth=Whole(1, 3),
    )

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        tokens: Count = 16,
        heads: Count = 4,
        depth: Depth = 1,
        dropout: Rate = 0.1,
        key_mask: bool = False,
        unimodal: bool = True,
        progressive: bool = True,
        lr: LearningRate = 2e-4,
        weight_decay: Decay = 1e-4,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities, outputs = len(task.modalities), task.num_outputs
        self.key_mask = key_mask
        self.encode = ModalityEncoders(task, dim, tokens=tokens)
        self.position = nn.Parameter(torch.zeros(modalities, tokens, dim))

        def layers() -> nn.ModuleList:
            return nn.ModuleList(
                PreNormBlock(dim, heads=heads, dropout=dropout) for _ in range(depth)
            )

        self.within = nn.ModuleList(layers() for _ in range(modalities))
        self.across = layers()
        self.head = nn.Sequential(
            nn.Linear(modalities * tokens * dim, dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(dim, outputs),
        )
        # shared by all modalities
        self.unimodal = nn.Linear(tokens * dim, outputs) if unimodal else None
        self.progressive = nn.ModuleList(
            nn.Linear(modalities * tokens * dim, outputs) for _ in range((depth + 1) * progressive)
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        steps = self.fuse(self.encode(batch), batch)
        return self.classify(steps, batch)

    def fuse(self, z: Tokens, batch: Batch) -> list[Tokens]:
        """Tokens that enter the inter-modal transformer, then those after each of its layers.

        Positions are added before every layer of both transformers, as released.
        """
        encoded = []
        for m, within in enumerate(self.within):
            x = z[:, m]
            assert isinstance(within, nn.ModuleList)
            for layer in within:
                x = layer(x + self.position[m])
            encoded.append(x)
        steps = [torch.where(batch.presence[:, :, None, None], torch.stack(encoded, dim=1), 0.0)]
        readable = batch.presence.repeat_interleave(z.shape[2], dim=1) if self.key_mask else None
        for layer in self.across:
            both = (steps[-1] + self.position).flatten(1, 2)  # (B, M P, D)
            steps.append(layer(both, readable).view_as(z))
        return steps

    def classify(self, steps: list[Tokens], batch: Batch) -> Float[Tensor, "batch output"]:
        """Head on all tokens, side by side."""
        output: Tensor = self.head(self._side_by_side(steps[-1], batch))
        return output

    def _side_by_side(self, x: Tokens, batch: Batch) -> Float[Tensor, "batch features"]:
        if self.key_mask:  # what comes out at an absent token has no meaning
            x = torch.where(batch.presence[:, :, None, None], x, 0.0)
        return x.flatten(1)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss under a random subset, plus the auxiliary heads, all of weight one."""
        z = self.encode(batch)
        seen = batch.hide(~random_pattern(batch.presence))
        steps = self.fuse(z, seen)
        terms = {"task": self.task_loss(self.classify(steps, seen), batch.target)}
        if self.unimodal is not None:
            # before the random hiding: each modality that a sample has must be useful alone
            alone = self.unimodal(z.flatten(2)).unbind(1)
            each = zip(alone, batch.presence.unbind(1), strict=True)
            rows = torch.stack([self.row_loss(o, batch.target, has) for o, has in each], dim=1)
            terms["unimodal"] = masked_mean(rows, batch.presence, dim=0).sum()
        for step, (head, x) in enumerate(zip(self.progressive, steps, strict=False)):
            output = head(self._side_by_side(x, seen))
            terms[f"progressive{step}"] = self.task_loss(output, batch.target)
        return terms
