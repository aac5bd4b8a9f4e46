"""Shares of tokens that training moves: a buffer that travels with the weights, and the numbers that plans need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...core.schedule import Place, check_keep

DECIMALS = 6  # of a share in a plan: no count of tokens hangs on more


class StoredShares(nn.Module):
    """For a method, beside `Method`: the share of N that each place keeps, in a float32 buffer `kept_shares`.

    The buffer is the truth and is never rounded: it comes through casts, moves, copies and state dicts bit for bit,
    also where the model around it is half precision, which would move a count. `places` hold the same shares to six
    decimals. What is written into the buffer from outside (an average of weights) counts from the next `train()`,
    `eval()` or `read_shares()` on.
    """

    places: tuple[Place, ...]
    kept_shares: Float[Tensor, " places"]

    def store_shares(self) -> None:
        """Make the buffer, from the shares that the places start with."""
        self.register_buffer("kept_shares", torch.tensor([place.keep for place in self.places], dtype=torch.float32))

    @torch.no_grad()
    def move_shares(self, shares: Float[Tensor, " places"], weight: float) -> None:
        """Move the stored shares towards `shares`; weight 1: these replace them."""
        self.kept_shares.lerp_(shares.to(self.kept_shares), weight)
        self.read_shares()

    def set_rates(self, rates: Sequence[float]) -> None:
        """These shares replace the stored ones."""
        given = torch.tensor(check_keep(tuple(rates), zero=True))
        if len(given) != len(self.places):
            raise ValueError(f"{len(given)} shares for {len(self.places)} places: give one for each place")
        self.move_shares(given, 1.0)

    def read_shares(self) -> None:
        """Let the plain numbers follow the buffer."""
        stored = self._buffers.get("kept_shares")
        if stored is None or stored.is_meta:
            return
        shares = [round(share, DECIMALS) for share in stored.tolist()]
        if any(round(place.keep, DECIMALS) != shares[place.index] for place in self.places):
            self.places = tuple(replace(place, keep=shares[place.index]) for place in self.places)

    def train(self, mode: bool = True):
        self.read_shares()
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.read_shares()

    def _apply(self, fn, recurse: bool = True):
        stored = self._buffers.get("kept_shares")
        super()._apply(fn, recurse)
        if stored is not None:
            self._keep_bits(stored, self.kept_shares)
        return self

    def _keep_bits(self, stored: Tensor, moved: Tensor) -> None:
        """Only the device of what `_apply` made counts; out of the meta device come the numbers of the places."""
        if stored.is_meta and not moved.is_meta:
            stored = torch.tensor([place.keep for place in self.places], dtype=torch.float32, device=moved.device)
        if stored is not moved:
            self._buffers["kept_shares"] = stored.to(moved.device)
