"""How the files of a source are to be read, where their bytes alone do not tell: stated by the owner, never guessed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictInt, model_validator

from rapid_dist.specs.parsing import ListOf, Number, Section, require, settings


@settings("data.reading")
class ReadingSpec:
    """How one source is read. Null means that nothing is stated; an image that then has two readings is refused.

    Every setting acts on each image by itself, so no image changes how another one is read.
    """

    split: str | None = Field(
        default=None,
        description="Which split is read of a source that holds several, such as train-*.parquet beside "
        "test-*.parquet, folders named train and test, or arrays named train_images and test_images.",
    )
    image_column: str | None = Field(
        default=None,
        description="The Parquet column, .npz array or table column with the images or their file names; null takes "
        "image in Parquet, images, x or image in .npz, file_name in a table.",
    )
    label_column: str | None = Field(
        default=None,
        description="The Parquet column, .npz array or table column with the labels; null takes label in Parquet and "
        "tables, labels, y or label in .npz.",
    )
    value_range: ListOf[Number] | None = Field(
        default=None,
        description="The pixel values that stand for black and white, such as [0, 4095] for 12 bits in a 16-bit file, "
        "[0, 1] for masks or [-1, 1]; null reads bytes as 0 to 255 and floats as 0 to 1, and refuses wider values.",
    )
    frame: StrictInt | None = Field(
        default=None,
        ge=0,
        description="Which frame of an animation, or page of a TIFF, is the image, counted from 0.",
    )
    background: Literal["white", "black"] | None = Field(
        default=None,
        description="What transparent pixels are laid over; null is white, and refuses an image that this makes one "
        "level.",
    )
    fit: Literal["stretch", "crop", "pad"] | None = Field(
        default=None,
        description="How an image that is not square comes to data.image_size: stretch changes its proportions, crop "
        "takes the middle square, pad adds black at two sides.",
    )

    @model_validator(mode="after")
    def _check(self) -> ReadingSpec:
        ends = self.value_range
        require(
            ends is None or (len(ends) == 2 and ends[0] < ends[1]),
            f"value_range is {list(ends or ())}; expected [black, white] with black below white",
        )
        return self


@settings("data.reading")
class ReadingsSpec:
    """How each of the sources is read; every image by itself, by what is stated here."""

    private: Section[ReadingSpec] = Field(default_factory=ReadingSpec)
    public: Section[ReadingSpec] = Field(default_factory=ReadingSpec)
    test: Section[ReadingSpec] = Field(default_factory=ReadingSpec)
