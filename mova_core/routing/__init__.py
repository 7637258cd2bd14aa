"""Routing: which experts should look at an image before a question about it is answered.

Every router has the one method of `Router` and gives a `Route` for each pair of image and question.
"""

from mova_core.routing.base import MAX_EXPERTS, Candidate, ImageInput, Router
from mova_core.routing.baselines import AllRouter, FixedRouter, NoneRouter, RandomRouter
from mova_core.routing.calibration import Calibration
from mova_core.routing.classifier import ClassifierRouter, RouteClassifier, fit_classifier
from mova_core.routing.eager import Decided, EagerRouter, route_in_steps
from mova_core.routing.free import FreeRouter
from mova_core.routing.images import See
from mova_core.routing.language import RoutingLanguageModel
from mova_core.routing.listwise import ListwiseRouter
from mova_core.routing.offers import Offer, plain_offers, random_offers
from mova_core.routing.pointwise import PointwiseRouter
from mova_core.routing.prompt import CHATML, POOL_FIRST, ChatFormat, ListwisePrompt, PointwisePrompt
from mova_core.routing.route import Route
from mova_core.routing.shortlist import ShortlistRouter
from mova_core.routing.similarity import Encode, SimilarityRouter

__all__ = [
    "CHATML",
    "MAX_EXPERTS",
    "POOL_FIRST",
    "AllRouter",
    "Calibration",
    "Candidate",
    "ChatFormat",
    "ClassifierRouter",
    "Decided",
    "EagerRouter",
    "Encode",
    "FixedRouter",
    "FreeRouter",
    "ImageInput",
    "ListwisePrompt",
    "ListwiseRouter",
    "NoneRouter",
    "Offer",
    "PointwisePrompt",
    "PointwiseRouter",
    "RandomRouter",
    "Route",
    "RouteClassifier",
    "Router",
    "RoutingLanguageModel",
    "See",
    "ShortlistRouter",
    "SimilarityRouter",
    "fit_classifier",
    "plain_offers",
    "random_offers",
    "route_in_steps",
]
