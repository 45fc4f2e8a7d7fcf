"""Features of texts in memory: texts that are given one call after another, without a feature store.

Dimension letters: M texts, D representation width.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from micro_lit.data.records import Message
from micro_lit.data.texts import Text, text_digests
from micro_lit.errors import UserError
from micro_lit.features.encoder import encode
from micro_lit.features.network import PooledTransformer
from micro_lit.features.tokens import TextTokenizer
from micro_lit.host import threads

# In the place of the texts of a backbone that is opened without any.
ANY_TEXT = Text((Message("user", "a"),))

# Bytes of features of recent texts that are kept in memory.
RECENT_BYTES = 2**28


class LiveFeatures:
    """Encodes texts in memory, each distinct text once while its features are kept.

    Args:
        tokenizer: the tokenizer of the backbone.
        network: the encoder, on its device.
        dtype: dtype in which a feature store would keep the features, so that both give equal numbers.
        token_budget: most tokens of a forward pass, padding included; None: 1,024, or the longest text.
        recent_bytes: size of the cache of recent features; 0 keeps none.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        network: PooledTransformer,
        dtype: torch.dtype = torch.float32,
        token_budget: int | None = None,
        recent_bytes: int = RECENT_BYTES,
    ) -> None:
        self.tokenizer, self.network, self.dtype, self.token_budget = tokenizer, network, dtype, token_budget
        self.most = recent_bytes // (4 * network.width)
        self.recent: OrderedDict[bytes, Tensor] = OrderedDict()

    def __call__(self, texts: Sequence[Text]) -> Float[Tensor, "M D"]:
        """The features of texts, in float32 on the CPU.

        Raises:
            UserError: features of a text are not finite.
        """
        keys = [digest.tobytes() for digest in text_digests(texts)]
        found = {key: self.recent[key] for key in keys if key in self.recent}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            found |= dict(zip(missing, self._encode(list(missing.values())), strict=True))
        for key in dict.fromkeys(keys):
            self.recent[key] = found[key]
            self.recent.move_to_end(key)
        while len(self.recent) > self.most:
            self.recent.popitem(last=False)
        return torch.stack([found[key] for key in keys])

    def _encode(self, texts: Sequence[Text]) -> Float[Tensor, "M D"]:
        tokens = self.tokenizer(texts)
        budget = self.token_budget or max(1024, int(tokens.lengths_M.max()))
        features_MD = torch.empty(len(texts), self.network.width)
        with threads.encoding():
            for rows_T, features_TD in encode(tokens, self.network, budget):
                features_MD[rows_T] = features_TD.to("cpu", self.dtype).float()
        if not features_MD.isfinite().all():
            row = int((~features_MD.isfinite().all(dim=1)).nonzero()[0])
            raise UserError(f"the features of a text are not finite: {texts[row]!r:.200}")
        return features_MD
