"""Your data in ten minutes: files in, a leaderboard out, no class to write."""

# %% Files as you may have them: one row a sample, joined by `id`; a row left out is a gap.
from pathlib import Path

import numpy as np
import pandas as pd

import mmbench

folder = Path("my_data")
folder.mkdir(exist_ok=True)
rng = np.random.default_rng(0)
ids = [f"patient{number}" for number in range(400)]
ill = rng.integers(0, 2, len(ids))
blood = pd.DataFrame({"id": ids, "iron": rng.normal(ill), "sugar": rng.normal(size=len(ids))})
words = np.array([["fine", "rested", "calm"], ["tired", "weak", "pale"]])
notes = pd.DataFrame({"id": ids, "note": [" ".join(rng.choice(words[c], 4)) for c in ill]})
pd.DataFrame({"id": ids, "ill": ill}).to_csv(folder / "labels.csv", index=False)
blood.drop(index=range(20)).to_csv(folder / "blood.csv", index=False)
notes.drop(index=range(20, 60)).to_csv(folder / "notes.csv", index=False)

# %% What they are, in the words of the data set `table` (`mmbench data describe table`).
my_data = {
    "name": "table",
    "label": "my_data",
    "args": {
        "files": {"blood": "blood.csv", "notes": "notes.csv"},
        "kinds": {"notes": "tokens"},
        "labels": "labels.csv",
        "target": "ill",
    },
}

# %% A suite is a question: which methods, under which missingness, how often.
suite = {
    "name": "mine",
    "data": [my_data],
    "methods": ["majority", "logistic", "zero_fill", "mean_fusion"],
    "scenarios": [
        {
            "name": "half",
            "train": {"mechanism": "natural + mcar", "missing_rate": 0.2},
            "test": {"mechanism": "natural + mcar", "missing_rate": [0.0, 0.2, 0.4]},
        },
        {
            "name": "features",  # entries go missing inside the table, too
            "train": {"mechanism": "natural"},
            "test": {"mechanism": "features", "feature_rate": [0.0, 0.5]},
        },
    ],
    "seeds": 1,
    "trainer": {"max_epochs": 5},
}

# %% Run it; the same call continues where it stopped. On the command line: `mmbench run mine.yaml`.
if __name__ == "__main__":  # workers are processes of their own
    sweep = mmbench.Sweep(suite, data_root=folder)
    sweep.run(workers=1)
    board = sweep.leaderboard()  # all metrics
    board = board[board["metric"] == "macro_f1"]
    print(board[["scenario", "condition", "method", "mean"]].round(3).to_string(index=False))
    print(f"everything lies in {sweep.folder}")
