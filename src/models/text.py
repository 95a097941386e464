"""A small network for texts: a vector for each word, blocks of attention if asked for, and their mean."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import InputError
from src.models.base import SupervisedModule
from src.models.layers import build_mlp

PADDING = 0  # the token that fills a text up to the length of all; it is left out


class AttentionBlock(nn.Module):
    """A block of a transformer's encoder, normalised first; (B, L, D) → (B, L, D) (Vaswani et al., 2017).

    Args:
        width: D.
        heads: number of heads, which divides D.
        dropout: probability of dropping a value that the block adds, in [0, 1).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mix, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = [nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), *hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, is_word: Tensor) -> Tensor:
        """Return the values of tokens that have looked at all tokens where ``is_word`` (B, L) is true."""
        mixed = self.mix(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, L, …)
        mask = is_word[:, None, None, :]
        found = F.scaled_dot_product_attention(mixed[0], mixed[1], mixed[2], attn_mask=mask)
        x = x + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(x))


class TextNet(nn.Module):
    """The mean of the vectors of a text's words, and fully connected layers; (B, L) int64 → (B, out_features).

    The arguments are those of `Text`, the number of tokens, and the length L of all texts.
    """

    def __init__(
        self,
        num_tokens: int,
        length: int,
        out_features: int,
        width: int,
        blocks: int,
        heads: int,
        hidden_size: int | list[int],
        dropout: float,
    ) -> None:
        super().__init__()
        if blocks and width % heads:
            raise InputError(f"model.width={width} must be a multiple of model.heads={heads}")
        self.words = nn.Embedding(num_tokens, width, padding_idx=PADDING)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width)) if blocks else None
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, dropout) for _ in range(blocks))
        self.output = build_mlp(width, hidden_size, out_features, "relu", dropout, False)

    def forward(self, x: Tensor) -> Tensor:
        is_word, values = x != PADDING, self.words(x)  # (B, L) and (B, L, D)
        # A text without words is one word of zeros, so that nothing is divided by 0.
        is_word = torch.cat([is_word[:, :1] | ~is_word.any(dim=1, keepdim=True), is_word[:, 1:]], dim=1)
        if self.positions is not None:
            values = values + self.positions
        for block in self.blocks:
            values = block(values, is_word)
        weights = is_word.to(values.dtype)
        return self.output((values * weights[:, :, None]).sum(dim=1) / weights.sum(dim=1, keepdim=True))


class Text(SupervisedModule):
    """A network for texts and other rows of tokens, of which token 0 is no word.

    Args:
        width: numbers in the vector of a word.
        blocks: blocks of attention between words; 0: their order does not matter.
        heads: heads of attention in each block, a divisor of the width.
        hidden_size: width of the hidden layer after the mean, or a list of widths; ``[]`` is none.
        dropout: probability of dropping a hidden unit, and what a block adds, in training, in [0, 1).
        settings: those of `SupervisedModule`.
    """

    takes_tokens = True

    def __init__(
        self,
        width: int,
        blocks: int,
        heads: int,
        hidden_size: int | list[int],
        dropout: float,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        if len(self.in_shape) != 1:
            raise InputError(f"Text takes rows of tokens (L,), and these data have the shape {self.in_shape}")
        self.net = TextNet(
            self.num_tokens, self.in_shape[0], self.out_features, width, blocks, heads, hidden_size, dropout
        )
