"""The recurrent attention model: small networks around one recurrent state.

Dimension key:
    N: episodes played in parallel
    P, G: glimpse planes (scales x colours), glimpse side [px]
    D: size of the joined glimpse vector and of the recurrent state
    K: classes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

State = Tensor  # h_t, (N, D); an LSTM appends its cell state, a core that sees the time a count


@dataclass(frozen=True)
class RAMConfig:
    """Sizes and choices of a :class:`RecurrentAttentionModel`; default sizes are the paper's.

    Attributes:
        glimpse_shape: (P, G, G), shape of the environment's ``glimpse`` box.
        num_classes: K, number of classes.
        what_size: Features of the glimpse's pixels.
        where_size: Features of its location.
        hidden_size: D, units of the core.
        core: A name in :data:`agents.ram.CORES`, such as ``"rnn"``, the paper's rectifier.
        identity_core: Initialise a rectifier core's recurrent weights as the identity (Le et al.
            2015), so that at first its state is a sum over glimpses. Ours.
        state_cap: Upper bound on a rectifier core's units (Hannun et al. 2014); 0 disables it.
        location: ``"absolute"`` (the paper) or ``"offset"`` from the present location.
        location_hidden: Units of a hidden layer in the location network. 0 leaves it out.
        location_reaches_core: Whether the location network's gradient flows into core and glimpse
            network (the exact policy gradient) or stops before them, as in many implementations.
        conv_features: Channels of a 3x3 convolution over the glimpse; a second has twice as many,
            and a maximum over 2x2 pixels follows each. 0 leaves them out (the paper).
        num_glimpses: T if the core also sees the share of glimpses so far; else 0 (the paper).
        initial_std: Initial value of a learned std of the next location's x and y. 0 leaves the
            std to the trainer (the paper).
        stop_hidden: Units of a hidden layer in the stop network. 0: there is none, and every
            episode has all its glimpses.
    """

    glimpse_shape: tuple[int, int, int]
    num_classes: int
    what_size: int = 128
    where_size: int = 128
    hidden_size: int = 256
    core: str = "rnn"
    identity_core: bool = False
    state_cap: float = 0.0
    location: Literal["absolute", "offset"] = "absolute"
    location_hidden: int = 0
    location_reaches_core: bool = True
    conv_features: int = 0
    num_glimpses: int = 0
    initial_std: float = 0.0
    stop_hidden: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        if self.core not in CORES:
            advice = "add your own to agents.ram.CORES first"
            raise ValueError(f"core must be one of {(*CORES,)}, got {self.core!r}: {advice}")
        if self.location not in ("absolute", "offset"):
            raise ValueError(f"location must be 'absolute' or 'offset', got {self.location!r}")
        sizes = {"num_classes", "what_size", "where_size", "hidden_size"}
        for name, value in vars(self).items():
            least = 1 if name in sizes else 0
            if isinstance(value, (int, float)) and not least <= value < math.inf:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        _, height, width = self.glimpse_shape
        if height != width or min(self.glimpse_shape) < 1:
            raise ValueError(f"glimpse_shape must be (P, G, G), got {self.glimpse_shape}")


class Output(NamedTuple):
    """Outputs of the model after a glimpse.

    Attributes:
        location_mean: Mean of the next location's Gaussian. Shape (N, 2).
        logits: Unnormalised log-probabilities of the classes. Shape (N, K).
        baseline: Estimate of the return. Shape (N,).
        stop_logit: Log-odds of ending the episode here. Shape (N,); None without a stop network.
    """

    location_mean: Tensor
    logits: Tensor
    baseline: Tensor
    stop_logit: Tensor | None = None


class GlimpseNetwork(nn.Module):
    """Combines what is seen and where: g_t = ReLU(W_3 ReLU(W_1 rho) + W_4 ReLU(W_2 l)).

    Source:
        Mnih et al. (2014), f_g(x_t, l_{t-1}; theta_g), section 4 "Glimpse network". The
        convolutions are ours.
    """

    def __init__(self, config: RAMConfig):
        super().__init__()
        planes, height, width = config.glimpse_shape
        features, self.conv = config.conv_features, nn.Sequential()
        for channels in (features, 2 * features) if features else ():
            rest = nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()
            self.conv += nn.Sequential(nn.Conv2d(planes, channels, 3, padding=1), *rest)
            planes, height, width = channels, (height + 1) // 2, (width + 1) // 2
        self.what = nn.Linear(planes * height * width, config.what_size)
        self.where = nn.Linear(2, config.where_size)
        self.join_what = nn.Linear(config.what_size, config.hidden_size)
        self.join_where = nn.Linear(config.where_size, config.hidden_size)

    def forward(self, glimpse: Tensor, location: Tensor) -> Tensor:
        """Map glimpse (N, P, G, G) and location (N, 2) to g_t, (N, D)."""
        if self.conv:
            # faster; contiguous() would leave a glimpse of one scale as it is
            glimpse = self.conv(glimpse.clone(memory_format=torch.channels_last))
        what = functional.relu(self.what(glimpse.flatten(1)))
        where = functional.relu(self.where(location))
        return functional.relu(self.join_what(what) + self.join_where(where))


class RectifierCore(nn.Module):
    """The paper's memory: h_t = ReLU(W_h h_{t-1} + W_g g_t).

    Source:
        Mnih et al. (2014), f_h(h_{t-1}, g_t; theta_h), section 4 "Recurrent network".
    """

    gates, num_states = 1, 1

    def __init__(self, config: RAMConfig):
        super().__init__()
        self.recurrent = nn.Linear(config.hidden_size, config.hidden_size)
        self.input = nn.Linear(config.hidden_size, config.hidden_size)
        self.cap = config.state_cap or math.inf
        if config.identity_core:
            nn.init.eye_(self.recurrent.weight)
            nn.init.zeros_(self.recurrent.bias)

    def forward(self, g: Tensor, state: State) -> State:
        """Map g_t and h_{t-1}, both (N, D), to h_t, (N, D)."""
        return functional.hardtanh(self.recurrent(state) + self.input(g), 0, self.cap)


class GRUCore(nn.GRUCell):
    """A gated memory (Cho et al. 2014, arXiv:1406.1078): h_t from g_t and h_{t-1}, (N, D)."""

    gates, num_states = 3, 1

    def __init__(self, config: RAMConfig):
        super().__init__(config.hidden_size, config.hidden_size)


class LSTMCore(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), as in Mnih et al., section 4.2."""

    gates, num_states = 4, 2

    def __init__(self, config: RAMConfig):
        super().__init__()
        self.cell = nn.LSTMCell(config.hidden_size, config.hidden_size)

    def forward(self, g: Tensor, state: State) -> State:
        """Map g_t (N, D) and (h_{t-1}, c_{t-1}) (N, 2 D) to (h_t, c_t), (N, 2 D)."""
        return torch.cat(self.cell(g, state.chunk(2, 1)), 1)


CORES: dict[str, Any] = {"rnn": RectifierCore, "lstm": LSTMCore, "gru": GRUCore}
"""Cores by name, made of a :class:`RAMConfig`. A core maps g_t (N, D) and its last state to the
next, (N, ``num_states`` D); the first D columns are h_t. Each of its weights is ``gates`` matrices,
one below the other, which Muon moves apart."""


class LocationNetwork(nn.Module):
    """Predicts the next location: the mean of a Gaussian, and its std if that is learned.

    ``"absolute"``: tanh(f(h_t)). ``"offset"``: the present location plus f(h_t), which the
    environment clips to the image. f is linear, or has one hidden layer.

    Source:
        Mnih et al. (2014), f_l(h_t; theta_l). Offset, hidden layer and learned std are ours.
    """

    def __init__(self, config: RAMConfig):
        super().__init__()
        self._offset = config.location == "offset"
        width = config.location_hidden or config.hidden_size
        self.hidden = nn.Linear(config.hidden_size, width) if config.location_hidden else None
        self.mean = nn.Linear(width, 2)
        self.log_std = None
        if config.initial_std:
            self.log_std = nn.Parameter(torch.full((2,), math.log(config.initial_std)))

    def forward(self, h: Tensor, location: Tensor) -> Tensor:
        """Map h_t (N, D) and the present location (N, 2) to the next one's mean, (N, 2)."""
        if self.hidden is not None:
            h = functional.relu(self.hidden(h))
        mean = self.mean(h).float()  # bfloat16 is too coarse for locations
        return location + mean if self._offset else torch.tanh(mean)


class RecurrentAttentionModel(nn.Module):
    """RAM: maps a glimpse and the state to a class, a next location and the next state.

    Baseline and stop network learn from a detached state, and the executed location enters the
    glimpse network as a constant.

    Source:
        Mnih et al. (2014), arXiv:1406.6247. The paper suggests a decision to stop; the network
        for it is ours.
    """

    def __init__(self, config: RAMConfig):
        super().__init__()
        self.config = config
        self.glimpse_network = GlimpseNetwork(config)
        self.core: Any = CORES[config.core](config)
        self._state_size = config.hidden_size * self.core.num_states
        self._state_size += config.num_glimpses > 0  # a count of the glimpses so far
        self.location_network = LocationNetwork(config)
        self.action_network = nn.Linear(config.hidden_size, config.num_classes)
        self.baseline_network = nn.Linear(config.hidden_size, 1)
        self.time = nn.Linear(1, config.hidden_size, bias=False) if config.num_glimpses else None
        self.stop_network = None
        if width := config.stop_hidden:
            layers = nn.Linear(config.hidden_size, width), nn.ReLU(), nn.Linear(width, 1)
            self.stop_network = nn.Sequential(*layers)

    def initial_state(self, n: int) -> State:
        """Return the state before the first glimpse of ``n`` episodes: zeros, (n, state size)."""
        return self.baseline_network.weight.new_zeros(n, self._state_size)

    @property
    def location_std(self) -> Tensor | None:
        """The learned std of the next location's x and y, (2,); None if the trainer sets it."""
        log_std = self.location_network.log_std
        return None if log_std is None else log_std.exp()

    def forward(self, glimpse: Tensor, location: Tensor, state: State) -> tuple[Output, State]:
        """Process one glimpse.

        Args:
            glimpse: Shape (N, P, G, G), in [0, 1].
            location: Location of the glimpse, (x, y) in [-1, 1]. Shape (N, 2).
            state: From :meth:`initial_state` or the previous call. Shape (N, D), or (N, 2 D)
                for an LSTM; one more if the core sees the time.

        Returns:
            The outputs and the next state.

        Raises:
            ValueError: If a shape is wrong.
        """
        n = glimpse.shape[0]  # unlike len, a symbol where the model is exported
        expected = {"glimpse": (n, *self.config.glimpse_shape), "location": (n, 2)}
        expected["state"] = (n, self._state_size)
        for (name, shape), part in zip(expected.items(), (glimpse, location, state), strict=True):
            if part.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(part.shape)}")
        location = location.detach()
        g = self.glimpse_network(glimpse, location)  # (N, D)
        if self.time is None:
            state = self.core(g, state)
        else:
            seen = state[:, -1:] + 1  # (N, 1)
            state = self.core(g + self.time(seen / self.config.num_glimpses), state[:, :-1])
            state = torch.cat((state, seen), 1)
        h = state[:, : self.config.hidden_size]  # (N, D)
        output = Output(
            self.location_network(h if self.config.location_reaches_core else h.detach(), location),
            self.action_network(h).float(),
            self.baseline_network(h.detach())[:, 0].float(),
        )
        if self.stop_network is not None:
            output = output._replace(stop_logit=self.stop_network(h.detach())[:, 0].float())
        return output, state
