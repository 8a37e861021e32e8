"""L-CLIPScore and RefL-CLIPScore as rewards: how well a caption fits its photo in a CLIP's embedding space."""

from collections.abc import Hashable, Sequence

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics.clipscore import Scores, clip_score, pair_cosines, ref_clip_score
from cliplet.metrics.ngrams import Floats
from cliplet.rewards.base import check_known, check_pairs, image_rows
from cliplet.rewards.embeddings import CaptionEmbeddings, ImageEmbeddings
from cliplet.rewards.references import References


class LClipScoreReward:
    """L-CLIPScore: ``w * max(cos(caption, photo), 0)`` with a small CLIP's embeddings.

    w and the prompt prefix come from the model's card. Range 0 to w, higher is better; a caption without words is 0.
    Photos are embedded once, beforehand; equal captions once. The text tower sees little of word order, repetition and
    broken endings, and every further visible noun raises the value: as the only reward it spoils a captioner
    (docs/rewards.md has the figures). Mix it with an n-gram reward.

    Source: Hessel et al. 2021, equation 1, with the encoders of L-CLIP (arXiv 2507.08710). It is the value of
    ``cliplet.Scorer`` with the preset ``paper``.

    Args:
        captions: the text side of an encoder; share one object between rewards.
        images: the photos' embeddings by the same encoder.

    Raises:
        InputError: image embeddings of another length than the encoder's.

    Example::

        encoder = cliplet.load()
        reward = LClipScoreReward(CaptionEmbeddings(encoder), ImageEmbeddings.encoded(encoder, {"dog.jpg": "dog.jpg"}))
    """

    name = "lclipscore"

    def __init__(self, captions: CaptionEmbeddings, images: ImageEmbeddings) -> None:
        self._captions, self._images = captions, images
        self._w = captions.encoder.card.score.w
        expected, found = captions.encoder.card.embedding_dim, images.vectors.shape[1]
        if expected != found:
            raise InputError(
                f"the image embeddings have {found} values each, but {captions.encoder.card.name} makes {expected}:"
                " they must come from the same model"
            )

    def __call__(self, images: Sequence[Hashable], captions: Sequence[str]) -> Floats:
        """The reward of each caption for its image, float64 ``[n]``.

        Raises:
            InputError: nothing to reward, lengths that differ, a caption that is no string, or an image without an
                embedding.
        """
        check_pairs(images, captions)
        self.check_images(images)
        vectors = self._captions(captions)  # [n, d]
        cosine = pair_cosines(self._images.vectors[image_rows(images, self._images.rows)], vectors)
        return _silent_without_words(self._score(cosine, vectors, images), captions)

    def check_images(self, images: Sequence[Hashable]) -> None:
        """Raise InputError if an image has no embedding."""
        check_known(images, self._images.rows, f"embedding in the reward {self.name!r}")

    def _score(self, cosine: Scores, captions: Scores, images: Sequence[Hashable]) -> Scores:
        return clip_score(cosine, self._w)


class RefLClipScoreReward(LClipScoreReward):
    """RefL-CLIPScore: the harmonic mean of L-CLIPScore and ``max(max_r cos(caption, reference r), 0)``.

    Range 0 to 2w / (w + 1), higher is better; 0 where either term is. References are embedded once, beforehand. They
    keep a captioner to what people say of the photo, but through the same text tower, which sees little of word order.

    Source: Hessel et al. 2021, equation 2, with the encoders of L-CLIP. It is ``cliplet.Scorer``'s RefCLIPScore.

    Args:
        captions: the text side of an encoder.
        images: the photos' embeddings by the same encoder.
        references: for each image its captions as strings.

    Raises:
        InputError: image embeddings of another length, no references, an image without any or without a string.
    """

    name = "ref_lclipscore"

    def __init__(self, captions: CaptionEmbeddings, images: ImageEmbeddings, references: References) -> None:
        super().__init__(captions, images)
        texts: list[str] = []
        self._first: dict[Hashable, int] = {}
        self._many: dict[Hashable, int] = {}
        for image, group in references.items():
            if isinstance(group, str) or not len(group) or not all(isinstance(text, str) for text in group):
                raise InputError(f"image {image!r} needs reference captions, a list of one or more strings")
            self._first[image], self._many[image] = len(texts), len(group)
            texts += [str(text) for text in group]
        if not texts:
            raise InputError("the RefL-CLIPScore reward needs references of at least one image")
        encoder, prefix = captions.encoder, captions.encoder.card.text.prompt_prefix
        self._references = encoder.encode_texts([prefix + text for text in texts])  # [references, d]

    def check_images(self, images: Sequence[Hashable]) -> None:
        """Raise InputError if an image has no embedding or no references."""
        super().check_images(images)
        check_known(images, self._first, f"references in the reward {self.name!r}")

    def _score(self, cosine: Scores, captions: Scores, images: Sequence[Hashable]) -> Scores:
        many = image_rows(images, self._many)
        caption = np.repeat(np.arange(len(images)), many)  # [pairs]
        before = np.cumsum(many) - many
        reference = np.arange(len(caption)) - (before - image_rows(images, self._first))[caption]
        best = np.maximum.reduceat(pair_cosines(captions[caption], self._references[reference]), before)
        return ref_clip_score(cosine, best, self._w)


def _silent_without_words(scores: Scores, captions: Sequence[str]) -> Floats:
    result = scores.astype(np.float64)
    result[[place for place, caption in enumerate(captions) if not caption.strip()]] = 0
    return result
