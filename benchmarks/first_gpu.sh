#!/usr/bin/env bash
# Everything to know of a GPU, as one Markdown file: bash benchmarks/first_gpu.sh [FILE]
#
# The tests marked cuda (exact resume is among them), the lines that make the host wait, the speed,
# and the time to the paper's 4.04 % error on cluttered MNIST. Variables replace what is run;
# DEVICE=cpu tries the script.
set -uo pipefail
cd "$(dirname "$0")/.."
works() { python -c 'import torch, gymnasium' 2>/dev/null; }
works || PATH="$PWD/.venv/bin:$PATH"
works || { echo "activate the project's environment first: see README.md" >&2 && exit 1; }
out="${1:-first_gpu.md}" device="${DEVICE:-cuda}" failed=0
read -ra tests <<<"${TESTS:-tests}"
read -ra speed <<<"${SPEED:---lanes 128 512 2048 8192}"
read -ra short <<<"${SHORT:---total-episodes 2560 --validation-images 500}"
read -ra training <<<"${TRAINING:---preset best-cluttered --num-validations 60}"

section() { # TITLE COMMAND...: append the command, the end of what it prints, and its exit status
  local log status
  log="$("${@:2}" 2>&1)"
  status=$?
  [ $status = 0 ] || failed=1
  printf '\n## %s\n\n`%s`\n\n' "$1" "${*:2}" >>"$out"
  printf '%s\n' "$log" | tail -n 60 | sed 's/^\(.*\)$/    \1/' >>"$out"
  printf '\nExit status %s.\n' $status >>"$out"
}

printf '# First run on %s\n\nCommit %s.\n' "$device" "$(git rev-parse --short=12 HEAD)" >"$out"
section 'Machine' python -c "import torch
from agents.runs.machine import describe_device
print('torch', torch.__version__, describe_device(torch.device('$device')))"
section 'Tests' python -m pytest -q -m cuda "${tests[@]}"
section 'Lines that make the host wait' \
  python -m benchmarks.first_gpu waits --device "$device" --final-split none "${short[@]}"
section 'Images per second' \
  python -m benchmarks.training_speed --device "$device" "${speed[@]}"
section 'Time to the error of the paper' \
  python -m benchmarks.first_gpu time_to_error --device "$device" "${training[@]}"
[ $failed = 0 ] || echo "a section failed: see the exit statuses in $out" >&2
exit $failed
