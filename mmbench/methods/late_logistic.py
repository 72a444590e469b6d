"""Late logistic: one logistic regression a modality, their probabilities multiplied.

Paper: none; what a sceptic fits in a minute.
Idea: if modalities are independent given the class, the evidence of each multiplies the odds, and
the evidence of what is absent is simply not there: p(y|x) ∝ p(y) Π_m p(y|x_m) / p(y), the product
over the modalities that a sample has. Nothing is imputed, nothing is trained together.
Notation: x_m (B, F_m) features without training; h_m (B, C) what modality m predicts alone;
p_m = prior of the training samples that have m; C is the strength of regularisation of that name.
Differences from the paper: none. Worth knowing:
- The prior counts once, not once a modality as in a plain product of the probabilities, which
  leans further to the frequent classes with each modality.
- C is chosen for each modality by its own loss on the validation split.
- Labels are classes of their own. For a regression the experts are ridge regressions and
  Gaussians: the product weighs each by its precision, judged by leaving one training sample out.
- A class that training never shows together with a modality: that modality says nothing of it.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.encoders import untrained
from mmbench.layers.prior import output_prior
from mmbench.method import Applies, Method, Paper

STRENGTHS = tuple(10.0**power for power in range(-4, 4))  # C: large = hardly regularised
DEFAULT = STRENGTHS.index(1.0)  # where no validation split speaks
UNHEARD = -30.0  # logit, beside others around 0, of a class that an expert never met

# of one modality, for each strength: weights (C, F, outputs), biases and `says` (C, outputs)
Path = tuple[Tensor, Tensor, Tensor]


class LateLogistic(Method):
    """Product of one logistic regression a modality; regression: of one ridge a modality.

    Args:
        task: What goes in and what is predicted.
    """

    paper = Paper("Product of one logistic regression a modality (baseline)")
    applies = Applies(trains=False)

    prior: Tensor
    priors: Tensor
    says: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        readers = [untrained(modality) for modality in task.modalities]
        outputs, count = task.num_outputs, len(readers)
        self.read = nn.ModuleList(module for module, _ in readers)
        self.experts = nn.ModuleList(nn.Linear(width, outputs) for _, width in readers)
        self.requires_grad_(False)  # nothing learns by gradient
        self.register_buffer("prior", torch.zeros(outputs))
        self.register_buffer("priors", torch.zeros(count, outputs))
        # of classes and labels 1, but 0 for those that the expert never met; of values, by how
        # much its precision exceeds the prior's, in units of that
        self.register_buffer("says", torch.zeros(count, outputs))
        self._paths: list[Path] = []  # until one strength of each is chosen

    @torch.no_grad()
    def prepare(self, train: Iterable[Batch]) -> None:
        """Fit the experts of each modality for all strengths, on the samples that have it."""
        self.eval()  # frozen backbones
        seen = [(*self._features(batch), batch.presence, batch.target) for batch in train]
        *features, presence, target = (torch.cat(parts) for parts in zip(*seen, strict=True))
        self.prior.copy_(output_prior(self.task, target))
        self._paths = []
        for m, x in enumerate(features):
            present = presence[:, m]
            self.priors[m] = (
                output_prior(self.task, target[present]) if present.any() else self.prior
            )
            self._paths.append(self._path(x[present], target[present], self.priors[m]))
        self._keep([DEFAULT] * len(features))

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Multiply the prior by the evidence of all modalities that are there."""
        parts = zip(self.experts, self._features(batch), strict=True)
        h = torch.stack([expert(x) for expert, x in parts], dim=1)  # (B, M, C)
        present = batch.presence[:, :, None]
        if self.task.kind == "regression":
            precision = 1 + torch.where(present, self.says, 0.0).sum(1)
            evidence = torch.where(present, (1 + self.says) * h - self.priors, 0.0)
            return (self.prior + evidence.sum(1)) / precision
        if self.task.kind == "single_label":
            h = h.log_softmax(2)
        evidence = torch.where(present, self.says * (h - self.priors), 0.0)
        return self.prior + evidence.sum(1)

    def candidates(self, batch: Batch) -> Float[Tensor, "batch candidate output"] | None:
        """What each modality predicts alone with each strength; its prior where it is absent."""
        if not self._paths:
            return None
        parts = []
        for m, (x, (weight, bias, _)) in enumerate(
            zip(self._features(batch), self._paths, strict=True)
        ):
            h = torch.einsum("bf,kfc->bkc", x, weight) + bias
            parts.append(torch.where(batch.presence[:, m, None, None], h, self.priors[m]))
        return torch.cat(parts, dim=1)

    def choose(self, losses: Float[Tensor, " candidate"]) -> None:
        """Keep, for each modality, the strength of the lowest validation loss."""
        self._keep(losses.view(len(self._paths), len(STRENGTHS)).argmin(1).tolist())
        self._paths = []

    def _features(self, batch: Batch) -> list[Float[Tensor, "batch _"]]:
        pairs = zip(self.task.names, self.read, strict=True)
        return [batch.embed(name, module) for name, module in pairs]

    def _keep(self, chosen: list[int]) -> None:
        for m, ((weight, bias, says), k) in enumerate(zip(self._paths, chosen, strict=True)):
            expert = self.experts[m]
            assert isinstance(expert, nn.Linear)
            expert.weight.copy_(weight[k].T)
            expert.bias.copy_(bias[k])
            self.says[m] = says[k]

    def _path(
        self,
        x: Float[Tensor, "sample feature"],
        target: Tensor,
        prior: Float[Tensor, " output"],
    ) -> Path:
        """Experts of one modality for all strengths, fitted on features of variance 1."""
        shape = (len(STRENGTHS), x.shape[1], self.task.num_outputs)
        if len(x) < 2:
            silent = torch.zeros(len(STRENGTHS), shape[2])
            return torch.zeros(shape), prior + silent, silent
        mean, std = x.double().mean(0), x.double().std(0, correction=0)
        scale = torch.where(std > 1e-6, 1 / std, 0.0)
        z = (x.double() - mean) * scale
        if self.task.kind == "regression":
            weight, bias, says = ridge_path(z, target.double())
        elif self.task.kind == "single_label":
            weight, bias, says = logistic_path(z, target, shape[2])
        else:
            labels = [logistic_path(z, y.long(), 2) for y in target.unbind(1)]
            no_yes = [torch.stack(parts) for parts in zip(*labels, strict=True)]
            weight, bias = (torch.movedim(p[..., 1] - p[..., 0], 0, -1) for p in no_yes[:2])
            says = torch.movedim(no_yes[2].amin(-1), 0, -1)
        weight = weight * scale[:, None]
        bias = bias - torch.einsum("f,kfc->kc", mean, weight)
        return weight.float(), bias.float(), says.float()


def logistic_path(
    z: Float[Tensor, "sample feature"], target: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Multinomial regressions for all strengths; a class without samples is never predicted."""
    count = len(STRENGTHS)
    weight = torch.zeros(count, z.shape[1], classes, dtype=z.dtype)
    bias = torch.full((count, classes), UNHEARD, dtype=z.dtype)
    says = torch.zeros(count, classes)
    met = torch.bincount(target, minlength=classes).nonzero().squeeze(1)
    bias[:, met] = 0.0
    if len(met) < 2:
        return weight, bias, says
    says[:, met] = 1.0
    model = LogisticRegression(warm_start=True, max_iter=1000)
    for k, strength in enumerate(STRENGTHS):
        model.set_params(C=strength).fit(z.numpy(), target.numpy())
        coef, intercept = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
        if len(met) == 2:  # one logit stands for both classes
            coef, intercept = torch.cat([-coef, coef]) / 2, torch.cat([-intercept, intercept]) / 2
        weight[k][:, met], bias[k, met] = coef.T, intercept
    return weight, bias, says


def ridge_path(
    z: Float[Tensor, "sample feature"], target: Float[Tensor, "sample output"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Ridge regressions for all strengths, penalty 1 / C, with their excess precision.

    The residual of a sample that is left out is that of the fit over 1 - h, where h is the
    sample's leverage. An expert that is no better than the mean is the mean.
    """
    n, mean = len(z), target.mean(0)
    y = target - mean
    u, s, vt = torch.linalg.svd(z, full_matrices=False)
    weights, says = [], []
    for strength in STRENGTHS:
        shrink = s**2 / (s**2 + 1 / strength)
        # directions without variance, which a singular value of 0 stands for, have no weight
        weight = vt.T @ (torch.where(s > 1e-9, shrink / s, 0.0)[:, None] * (u.T @ y))
        leverage = 1 / n + (u**2 * shrink).sum(1)
        left_out = (y - z @ weight) / (1 - leverage).clamp_min(1e-6)[:, None]
        ratio = (y * n / (n - 1)).square().mean(0) / left_out.square().mean(0).clamp_min(1e-12)
        excess = (ratio - 1).clamp_min(0)
        weights.append(weight * (excess > 0))
        says.append(excess)
    return torch.stack(weights), mean.expand(len(STRENGTHS), -1), torch.stack(says)
