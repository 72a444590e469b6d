"""Everything that a run prints, logs or warns of, in one file."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send everything that is printed, logged or warned of to the end of one file."""
    with path.open("a", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        loggers = [
            logging.getLogger(n) for n in ("mmbench", "lightning.pytorch", "lightning.fabric")
        ]
        past: Mapping[logging.Logger, list[logging.Handler]] = {
            logger: logger.handlers[:] for logger in loggers
        }
        for logger in loggers:
            logger.handlers = [handler]
        try:
            with (
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
                warnings.catch_warnings(),
            ):
                for meant in (
                    "does not have many workers",  # data lies in memory
                    "in eval mode at the start of training",  # parts that a stage froze
                    "smaller than the logging interval",  # methods log once an epoch
                    "Experiment logs directory .* exists",  # the curve goes to the run's folder
                ):
                    warnings.filterwarnings("ignore", f".*{meant}")
                yield
        finally:
            for logger, handlers in past.items():
                logger.handlers = handlers
