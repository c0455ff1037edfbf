"""A GRU that trains fast on a CPU, where PyTorch's starts dozens of kernels for every frame of every direction."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from emgscribe.models.encoders.layers import fast_dropout


class Gru(nn.GRU):
    """`nn.GRU`, batch first, with its weights and its results. In training on a CPU both directions step together."""

    # PyTorch names the first argument `input`.
    def forward(self, seen: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        plain = isinstance(seen, Tensor) and seen.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not plain or hx is not None or not torch.is_grad_enabled():
            return super().forward(seen, hx)
        frames, last = seen.transpose(0, 1), list[Tensor]()  # (S, N, K)
        for layer in range(self.num_layers):
            if layer:
                frames = fast_dropout(frames, self.dropout) if self.training else frames
            hidden = self._layer(layer, frames)  # (S, directions, N, H)
            last.append(hidden[-1])
            ways = hidden.unbind(1)
            frames = torch.cat([ways[0], *(way.flip(0) for way in ways[1:])], dim=-1)
        return frames.transpose(0, 1), torch.cat(last)

    def _layer(self, layer: int, frames: Tensor) -> Tensor:
        """Frames (S, N, K) -> hidden states (S, directions, N, H), each direction in its own order."""
        inputs, kernels, biases = [], [], []
        for ending in ("", "_reverse")[: 1 + self.bidirectional]:
            outer, kernel, bias, inner = self._weights(f"l{layer}{ending}")
            made = F.linear(frames, outer, bias)  # (S, N, 3 * H)
            inputs.append(made.flip(0) if ending else made)
            kernels.append(kernel)
            biases.append(inner)
        hidden: Tensor = _Recurrence.apply(  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
            torch.stack(inputs, 1), torch.stack(kernels), torch.stack(biases)
        )
        return hidden

    def _weights(self, name: str) -> list[Tensor]:
        return [getattr(self, f"{part}_{name}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


class _Recurrence(torch.autograd.Function):
    """Inputs (S, W, N, 3 * H) of the gates reset, update and new, kernels (W, 3 * H, H), biases (W, 3 * H) of W
    directions -> hidden states (S, W, N, H).

    A step is one matrix product for all directions, and a few kernels. In the backward pass only what depends on later
    frames is computed frame by frame; the rest, such as the gradient of the kernels, at once.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
        steps, ways, items, width = *inputs.shape[:3], kernels.shape[2]
        flows = biases[:, None].expand_as(inputs).contiguous()
        gates = inputs.new_empty(steps, ways, items, 2 * width)
        new, hidden = inputs.new_empty(steps, ways, items, width), inputs.new_zeros(steps + 1, ways, items, width)
        across, states = kernels.transpose(1, 2), hidden.unbind()
        both, last = slice(0, 2 * width), slice(2 * width, None)
        parts = (inputs[..., both], inputs[..., last], flows, flows[..., both], flows[..., last], gates, new)
        resets, updates = gates[..., :width].unbind(), gates[..., width:].unbind()
        for step, (at, at_new, flow, flow_at, flow_new, gate, found) in enumerate(
            zip(*(part.unbind() for part in parts), strict=True)
        ):
            flow.baddbmm_(states[step], across)
            torch.add(at, flow_at, out=gate).sigmoid_()
            torch.addcmul(at_new, resets[step], flow_new, out=found).tanh_()
            torch.lerp(found, states[step], updates[step], out=states[step + 1])
        ctx.save_for_backward(kernels, flows[..., last], gates, new, hidden)
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kernels, flows, gates, new, hidden = ctx.saved_tensors
        steps, ways, items, width = new.shape
        before, reset, update = hidden[:-1], gates[..., :width], gates[..., width:]
        by_new = (1 - update) * (1 - new.square())
        factors = torch.stack(  # of a hidden state's gradient, to those of the flows into reset, update and new
            [by_new * flows * reset * (1 - reset), (before - new) * update * (1 - update), by_new * reset], dim=3
        )
        grads, later, kept = torch.empty_like(factors), above.new_zeros(ways, items, width), above.new_empty(new.shape)
        rows = grads.flatten(3)
        for step in range(steps - 1, -1, -1):
            here = torch.add(above[step], later, out=kept[step])
            torch.mul(factors[step], here[:, :, None], out=grads[step])
            later = torch.mul(here, update[step], out=later).baddbmm_(rows[step], kernels)
        by_kernels = torch.bmm(rows.permute(1, 3, 0, 2).flatten(2), before.permute(1, 0, 2, 3).flatten(1, 2))
        by_biases = rows.sum(dim=(0, 2))
        grads[..., 2, :] = kept * by_new
        return rows, by_kernels, by_biases
