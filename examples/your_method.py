"""Your method in ten minutes: say what is predicted from what is present, check it, compare it.

For a package of your own, `mmbench new method NAME` writes all around these lines.
"""

# %% The method: what goes in, what comes out.
from jaxtyping import Float
from torch import Tensor, nn

import mmbench
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.encoders import ModalityEncoders
from mmbench.method import Method, Paper


class MaxFusion(Method):
    """A head on the largest value of each feature over the modalities that are there."""

    paper = Paper("Max fusion")

    def __init__(self, task: Task, *, dim: int = 64, lr: float = 1e-3) -> None:
        super().__init__(task, lr=lr)
        self.encode = ModalityEncoders(task, dim)
        self.head = nn.Linear(dim, task.num_outputs)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        z = self.encode(batch)  # (B, M, D), zeros where absent
        z = z.masked_fill(~batch.presence[:, :, None], float("-inf"))
        output: Tensor = self.head(z.amax(1))
        return output


# %% The contract: what every method must keep, and how to mend what breaks it.
if __name__ == "__main__":  # workers are processes of their own
    from mmbench.checks.report import check_method

    report = check_method("your_method.MaxFusion", MaxFusion)
    print(report.text())

    # %% Compared with two baselines; a class is named by its module, here this file.
    suite = {
        "name": "max_fusion",
        "data": ["mfeat"],
        "methods": [{"class_path": "your_method.MaxFusion"}, "mean_fusion", "zero_fill"],
        "scenarios": ["mcar"],
        "seeds": 1,
        "limit": 200,
        "trainer": {"max_epochs": 3},
    }
    sweep = mmbench.Sweep(suite)
    sweep.run(workers=1)
    board = sweep.leaderboard()  # all metrics
    board = board[board["metric"] == "macro_f1"]
    print(board[["condition", "method", "mean"]].round(3).to_string(index=False))
