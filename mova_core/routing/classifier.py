"""A plain classifier over a fixed set of experts: the paper's comparison that cannot meet a new expert.

Notation for tensor shapes:
    n: samples, t: width of the text feature, d: width of the image feature, e: experts
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mova_core.errors import CheckpointError, RoutingError
from mova_core.routing.base import (
    MAX_EXPERTS,
    Candidate,
    ImageInput,
    candidates,
    check_limit,
    check_pairs,
    choose,
)
from mova_core.routing.images import See, routing_tokens
from mova_core.routing.route import Route
from mova_core.routing.similarity import Encode


class RouteClassifier(nn.Module):
    """A two-layer perceptron with one output for each expert it was made for.

    Args:
        ids: the experts, in the order of the outputs.
        text_width: t.
        image_width: d, or 0 to look at the question only.
        hidden: units of the hidden layer.
    """

    def __init__(self, ids: Sequence[str], text_width: int, image_width: int = 0, hidden: int = 256) -> None:
        super().__init__()
        self.ids = tuple(ids)
        self.text_width = text_width
        self.image_width = image_width
        self.layers = nn.Sequential(
            nn.Linear(text_width + image_width, hidden), nn.GELU(), nn.Linear(hidden, len(self.ids))
        )

    def forward(self, text: Tensor, image: Tensor | None = None) -> Tensor:
        """Log-odds [n, e] from text features [n, t] and, if it looks at images, pooled tokens [n, d]."""
        features = text if image is None else torch.cat([text, image], dim=-1)  # [n, t + d]
        logits: Tensor = self.layers(features)
        return logits

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and ids to one safetensors file, whole or not at all."""
        shape = {"ids": self.ids, "text_width": self.text_width, "image_width": self.image_width}
        target = Path(path)
        part = target.with_name(target.name + ".part")
        weights = {name: weight.contiguous() for name, weight in self.state_dict().items()}
        save_file(weights, part, metadata={"route_classifier": json.dumps(shape)})
        os.replace(part, target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RouteClassifier:
        """Read what `save` wrote.

        Raises:
            CheckpointError: if the file is missing, broken or something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                shape = json.loads((file.metadata() or {})["route_classifier"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            hidden = weights["layers.0.bias"].shape[0]
            classifier = cls(shape["ids"], shape["text_width"], shape["image_width"], hidden)
            classifier.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"no route classifier can be read from {path}",
                value=error,
                expected="a safetensors file that RouteClassifier.save wrote",
            ) from error
        return classifier


def fit_classifier(
    ids: Sequence[str],
    text: Tensor,
    useful: Tensor,
    *,
    image: Tensor | None = None,
    hidden: int = 256,
    steps: int = 300,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> RouteClassifier:
    """Train a classifier on whole-batch binary cross-entropy with AdamW.

    Args:
        ids: the e experts.
        text: [n, t], question features.
        useful: [n, e], true or 1 where the expert helps.
        image: [n, d], pooled routing tokens, or none.
        hidden: units of the hidden layer.
        steps: of the optimiser.
        learning_rate: of the optimiser, as is the weight decay.
        seed: of the starting weights; the caller's random state is left alone.

    Raises:
        RoutingError: if the arrays do not fit each other.
    """
    if len(text) != len(text if image is None else image) or useful.shape != (len(text), len(ids)):
        shapes = f"text {list(text.shape)}, useful {list(useful.shape)} for {len(ids)} experts"
        raise RoutingError(
            "training arrays do not fit each other", value=shapes, expected="[n, t] and [n, e]"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = RouteClassifier(ids, text.shape[1], 0 if image is None else image.shape[1], hidden)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for _ in range(steps):
        loss = nn.functional.binary_cross_entropy_with_logits(classifier(text, image), useful.float())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return classifier.eval()


class ClassifierRouter:
    """Chooses up to k of the experts a classifier was trained on.

    Args:
        classifier: trained; run in the mode it is in.
        encode: gives the text features it was trained on.
        k: the most experts a route may hold.
        threshold: probability above which an expert is chosen.
        see: looks at pictures, if the classifier does; its tokens are averaged.
    """

    name = "classifier"

    def __init__(
        self,
        classifier: RouteClassifier,
        encode: Encode,
        *,
        k: int = MAX_EXPERTS,
        threshold: float = 0.5,
        see: See | None = None,
    ) -> None:
        self.classifier = classifier
        self.encode = encode
        self.k = check_limit(k)
        self.threshold = threshold
        self.see = see

    @torch.no_grad()
    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """Choose experts for each pair of image and question; see `Router.route`.

        Raises:
            RoutingError: also if an expert on offer was unknown when the classifier was trained.
        """
        check_pairs(images, questions)
        offered = [candidate.id for candidate in candidates(pool)]
        unknown = [name for name in offered if name not in self.classifier.ids]
        if unknown:
            raise RoutingError(
                "the classifier was not trained on every expert on offer",
                value=", ".join(unknown),
                expected=f"only {', '.join(self.classifier.ids)}",
                hint="Train it again, or use a router that reads descriptions.",
            )
        if not offered or not questions:
            return [Route((), {}, self.name) for _ in questions]
        column = {name: place for place, name in enumerate(self.classifier.ids)}
        routes = []
        for row in torch.sigmoid(self._log_odds(images, questions)).tolist():
            probabilities = {name: row[column[name]] for name in offered}
            routes.append(Route(choose(probabilities, self.k, self.threshold), probabilities, self.name))
        return routes

    def _log_odds(self, images: Sequence[ImageInput], questions: Sequence[str]) -> Tensor:
        """Log-odds [b, e] of the classifier's experts, in double precision."""
        weight = next(self.classifier.parameters())
        text = self.encode(questions).to(weight)  # [b, t]
        width = self.classifier.image_width
        if not width:
            logits: Tensor = self.classifier(text)
            return logits.double()
        pooled = [tokens.to(weight).mean(dim=0) for tokens in routing_tokens(images, width, self.see)]
        logits = self.classifier(text, torch.stack(pooled))
        return logits.double()
