"""Many questions at once: opened in windows, then routed and answered in batches."""

from mova_core.model.batch.engine import BATCH_SIZE, answer_all
from mova_core.model.batch.request import Request, Result

__all__ = ["BATCH_SIZE", "Request", "Result", "answer_all"]
