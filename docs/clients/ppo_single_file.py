"""PPO with a GRU in one file, after CleanRL: `python docs/clients/ppo_single_file.py [ENV_STEPS]`.

It needs torch and the environment, nothing from `agents`. All lanes begin and end their episodes
together, so a rollout is one whole episode per lane and the GRU starts from zeros.

Dimension key:
    T: glimpses per episode
    N: lanes
"""

import sys

import gymnasium as gym
import torch
from torch import nn
from torch.distributions import Categorical, Normal

import ram_env  # noqa: F401 - registers the ids

ENV_ID, NUM_ENVS, STD = "MNISTGlimpse-v0", 128, 0.2
EPOCHS, MINIBATCHES, CLIP, ENTROPY = 4, 4, 0.2, 0.03


class Agent(nn.Module):
    """Glimpse, location and time to a Gaussian location, a class and a value."""

    def __init__(self, num_inputs: int, num_classes: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(num_inputs, 256), nn.ReLU())
        self.core = nn.GRU(256, 256)
        self.location, self.label = nn.Linear(256, 2), nn.Linear(256, num_classes)
        self.value = nn.Linear(256, 1)

    def forward(self, obs, state=None):
        """Map observations (T, N, inputs) and a state to distributions, values and a state."""
        h, state = self.core(self.encoder(obs), state)
        location = Normal(self.location(h).tanh(), STD)
        return location, Categorical(logits=self.label(h)), self.value(h)[..., 0], state


def flatten(obs):
    """Join the observation's parts, (N, inputs)."""
    return torch.cat([torch.as_tensor(part).flatten(1) for part in obs.values()], 1)


def log_prob(location, label, actions, obs):
    """Return the log-probability of what an action decides, (T, N).

    Only the label at time 1 is scored, and only the locations before it are looked at.
    """
    last = obs[..., -1] > 0.99  # time is the last input
    of_location = location.log_prob(actions["location"]).sum(-1)
    return torch.where(last, label.log_prob(actions["label"]), of_location)


env_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
torch.manual_seed(0)
envs = gym.make_vec(ENV_ID, num_envs=NUM_ENVS, action_format="dict")
num_glimpses = envs.unwrapped.task.num_glimpses
obs = flatten(envs.reset(seed=0)[0])
agent = Agent(obs.shape[1], int(envs.single_action_space["label"].n))
optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3)

for update in range(max(env_steps // (num_glimpses * NUM_ENVS), 1)):
    steps, state = [], None
    for _ in range(num_glimpses):
        with torch.no_grad():
            location, label, value, state = agent(obs[None], state)
            action = {"location": location.sample()[0], "label": label.sample()[0]}
            old = log_prob(location, label, {k: v[None] for k, v in action.items()}, obs[None])[0]
        clipped = {"location": action["location"].clamp(-1, 1), "label": action["label"]}
        next_obs, reward, *_ = envs.step({k: v.numpy() for k, v in clipped.items()})
        reward = torch.as_tensor(reward, dtype=torch.float32)
        steps.append({"obs": obs, **action, "old": old, "value": value[0], "reward": reward})
        obs = flatten(next_obs)  # after the last step: the first glimpses of the next episodes
    batch = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}  # (T, N, ...)
    returns = batch["reward"].flip(0).cumsum(0).flip(0)  # (T, N): the episode's end is in it
    advantage = returns - batch["value"]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    for _ in range(EPOCHS):
        for lanes in torch.randperm(NUM_ENVS).chunk(MINIBATCHES):
            part = {name: tensor[:, lanes] for name, tensor in batch.items()}
            location, label, value, _ = agent(part["obs"])
            ratio = (log_prob(location, label, part, part["obs"]) - part["old"]).exp()
            gain = advantage[:, lanes]
            policy = -torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
            regression = (value - returns[:, lanes]).square().mean()
            loss = policy + 0.5 * regression - ENTROPY * label.entropy()[-1].mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
    if update % 50 == 0:
        print(f"update {update}: mean reward {batch['reward'].sum(0).mean():.3f}", flush=True)
print(f"mean reward of the last episodes {batch['reward'].sum(0).mean():.3f}")
