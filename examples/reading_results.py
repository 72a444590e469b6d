"""Reading results: tables as data frames, predictions as arrays, and a metric of your own."""

# %% A small sweep to read; a folder of results that is there already is opened by its path.
import numpy as np

import mmbench

suite = {
    "name": "to_read",
    "data": ["mfeat"],
    "methods": ["majority", "zero_fill", "mean_fusion"],
    "scenarios": ["mcar"],
    "seeds": 2,
    "limit": 200,
    "trainer": {"max_epochs": 3},
    "keep_weights": True,
}


def brier(logits: np.ndarray, target: np.ndarray) -> float:
    """Mean squared distance of predicted probabilities to the class; 0 is perfect."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return float(((p - np.eye(p.shape[1])[target]) ** 2).sum(axis=1).mean())


if __name__ == "__main__":  # workers are processes of their own
    sweep = mmbench.Sweep(suite)
    sweep.run(workers=1)

    # %% One row for each data set, scenario, condition, method and metric, holes shown.
    board = sweep.leaderboard()  # all metrics
    board = board[board["metric"] == "accuracy"]
    print(board.pivot_table(index="method", columns="condition", values="mean").round(3))

    # %% One row for each run: what was asked, what it cost, what it scored.
    print(sweep.records().head())

    # %% Predictions are kept, so a metric of your own costs no training.
    for run in sweep.runs():
        for file in sorted((run.folder / "predictions").glob("*.npz")):
            with np.load(file) as arrays:
                score = brier(arrays["logits"], arrays["target"])
            print(f"{run.spec.title:<40} {file.stem:<10} brier {score:.3f}")

    # %% A trained method again, from the weights that its run kept.
    trained = mmbench.load(sweep.runs()[-1])
    batch = next(trained.data.batches("test"))
    print(trained.predict(batch).shape, "logits of the first test batch")
