"""PPO with TorchRL on the native vector env: `python docs/clients/with_torchrl.py [ENV_STEPS]`.

TorchRL resets ended lanes itself, so the environment is made with `autoreset_mode="Disabled"`.
Actions are `"multidiscrete"`: a column, a row and a class. The policy has no memory.
"""

import sys

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical, Independent
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import ram_env  # noqa: F401 - registers the ids

ENV_ID, NUM_ENVS, EPOCHS, MINIBATCH = "MNISTGlimpse-v0", 64, 4, 224
KEYS = ["glimpse", "location", "time"]


class Features(nn.Module):
    """Joins the observation's parts and maps them to outputs."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(num_inputs, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()),
            nn.Linear(128, num_outputs),
        )

    def forward(self, glimpse, location, time):
        """Map observations of any batch shape to outputs."""
        return self.layers(torch.cat([glimpse.flatten(-3), location, time], -1))


def choose(logits):
    """Return independent choices of a column, a row and a class, of ten each."""
    return Independent(Categorical(logits=logits.unflatten(-1, (3, 10))), 1)


env_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
torch.manual_seed(0)
vector_env = gym.make_vec(
    ENV_ID,
    num_envs=NUM_ENVS,
    action_format="multidiscrete",
    grid_size=(10, 10),
    autoreset_mode="Disabled",
)
env = GymWrapper(vector_env, categorical_action_encoding=True)
env.set_seed(0)
num_glimpses = vector_env.unwrapped.task.num_glimpses
shapes = [env.observation_spec[name].shape[1:] for name in KEYS]
num_inputs = sum(shape.numel() for shape in shapes)
actor = ProbabilisticActor(
    TensorDictModule(Features(num_inputs, 30), in_keys=KEYS, out_keys=["logits"]),
    in_keys=["logits"],
    distribution_class=choose,
    return_log_prob=True,
    spec=env.action_spec,
)
critic = ValueOperator(Features(num_inputs, 1), in_keys=KEYS)
loss_module = ClipPPOLoss(actor, critic, entropy_coeff=0.03)
advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic, average_gae=True)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)
frames = num_glimpses * NUM_ENVS * 4
total = max(env_steps // frames, 1) * frames
collector = Collector(
    env,
    actor,
    frames_per_batch=frames,
    total_frames=total,
    auto_register_policy_transforms=False,  # the policy needs none
)

for update, data in enumerate(collector):
    for _ in range(EPOCHS):
        advantage(data)
        flat = data.reshape(-1)
        for rows in torch.randperm(len(flat)).split(MINIBATCH):
            losses = loss_module(flat[rows])
            loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
            optimizer.step()
    ended = data["next", "terminated"]
    score = data["next", "reward"][ended].mean()
    if update % 10 == 0:
        print(f"{(update + 1) * frames} env steps: mean reward {score:.3f}", flush=True)
collector.shutdown()
print(f"mean reward of the last episodes {score:.3f}")
