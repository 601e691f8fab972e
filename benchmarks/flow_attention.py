"""Flow attention against softmax attention as torch has it: python -m benchmarks flow_attention

Forward and backward, one sequence, width 256 in 8 heads, float32, one thread, CPU seconds; the sides take turns. Both
forms are first compared with a plain transcription of their equations, whose time and memory are shown too. Memory is
the peak of one call above the inputs, in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LENGTHS, ROUNDS = (256, 1024, 4096), 7
WIDTH, HEADS = 256, 8
PLAIN_ROUNDS = 2
RTOL = 1e-6
KINDS = ("softmax", "flow", "flow, plain", "causal softmax", "causal flow", "causal flow, plain")


def plain(q: Any, k: Any, v: Any, eps: float = 1e-6) -> Any:
    """The equations of the paper, one after another."""
    import torch

    q, k = q.sigmoid(), k.sigmoid()
    incoming = 1 / ((q + eps) * (k.sum(2, keepdim=True) + eps)).sum(-1)
    outgoing = 1 / ((k + eps) * (q.sum(2, keepdim=True) + eps)).sum(-1)
    still_in = ((q + eps) * ((k * outgoing[..., None]).sum(2, keepdim=True) + eps)).sum(-1)
    still_out = ((k + eps) * ((q * incoming[..., None]).sum(2, keepdim=True) + eps)).sum(-1).clamp(-1, 1)
    competing = v * (still_out.softmax(-1) * k.shape[2])[..., None]
    gathered = (q * incoming[..., None]) @ (k.transpose(-2, -1) @ competing)
    return gathered * torch.sigmoid(still_in * q.shape[2] / k.shape[2])[..., None]


def plain_causal(q: Any, k: Any, v: Any, eps: float = 1e-6) -> Any:
    """The same with running sums: a matrix of keys and values is held for every position."""
    import torch

    q, k = q.sigmoid(), k.sigmoid()
    position = torch.arange(1, q.shape[2] + 1, dtype=q.dtype)
    incoming = position / ((q + eps) * (k.cumsum(2) + eps)).sum(-1)
    outgoing = position / ((k + eps) * (q.cumsum(2) + eps)).sum(-1)
    still_in = ((q + eps) * ((k * outgoing[..., None]).cumsum(2) + eps)).sum(-1) / position
    still_out = ((k + eps) * ((q * incoming[..., None]).cumsum(2) + eps)).sum(-1) / position
    strength = still_out.clamp(-1, 1).exp()
    competing = v * (strength / strength.cumsum(-1) * position)[..., None]
    held = (k[..., None] * competing[..., None, :]).cumsum(2)
    gathered = ((q * (incoming / position)[..., None])[..., None, :] @ held)[..., 0, :]
    return gathered * torch.sigmoid(still_in)[..., None]


def attentions() -> dict[str, Callable[..., Any]]:
    import torch.nn.functional as F

    from modules.layers.flow_attention import causal_flow_attention, flow_attention

    def causal_softmax(q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    softmax = F.scaled_dot_product_attention
    functions = (softmax, flow_attention, plain, causal_softmax, causal_flow_attention, plain_causal)
    return dict(zip(KINDS, functions, strict=True))


def inputs(length: int) -> list[Any]:
    """Queries, keys and values as projections leave them: [1, length, heads, width of a head]."""
    import torch

    source = torch.Generator().manual_seed(length)
    shape = (1, length, HEADS, WIDTH // HEADS)
    return [torch.randn(shape, generator=source).requires_grad_() for _ in range(3)]


def call(attention: Callable[..., Any], given: list[Any]) -> None:
    """Forward, and backward to queries, keys and values."""
    found = attention(*(x.transpose(1, 2) for x in given))
    found.transpose(1, 2).reshape(1, -1, WIDTH).square().sum().backward()


def assert_equal(length: int = 500) -> None:
    """Raises AssertionError unless both forms and their gradients are those of the transcription."""
    import torch

    found = attentions()
    for kind in ("flow", "causal flow"):
        answers, gradients = [], []
        for name in (kind, f"{kind}, plain"):
            given = inputs(length)
            answer = found[name](*(x.transpose(1, 2) for x in given))
            answer.square().sum().backward()
            answers.append(answer.detach())
            gradients.append(torch.cat([x.grad for x in given]))
        worst = [float((a - b).abs().max() / b.abs().max()) for a, b in (answers, gradients)]
        print(f"{kind}: largest deviation of output {worst[0]:.1e}, of gradients {worst[1]:.1e} (relative)")
        assert max(worst) < RTOL, worst


def measure_times(length: int, rounds: int) -> None:
    found, given = attentions(), inputs(length)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for n in range(rounds + 1):
        for kind, attention in found.items():
            if kind.endswith("plain") and n > PLAIN_ROUNDS:
                continue
            begin = time.process_time()
            call(attention, given)
            if n:  # the first call fetches pages and plans
                seconds[kind].append(time.process_time() - begin)
    least = {kind: min(values) for kind, values in seconds.items()}
    middle = {kind: statistics.median(values) for kind, values in seconds.items()}
    for flow, softmax in (("flow", "softmax"), ("causal flow", "causal softmax")):
        print(
            f"{length} tokens: {softmax} {1e3 * least[softmax]:.1f} ms, {flow} {1e3 * least[flow]:.1f} ms, plain "
            f"{1e3 * least[flow + ', plain']:.1f} ms; {least[flow] / least[softmax]:.3f}x of softmax (medians "
            f"{middle[flow] / middle[softmax]:.3f}x), {least[flow] / least[flow + ', plain']:.3f}x of plain",
            flush=True,
        )


def measure_memory(length: int) -> None:
    """Each kind in a process of its own: the peak of a process never falls."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root, peaks = Path(__file__).resolve().parent.parent, {}
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.flow_attention", "--memory", kind, str(length)]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        peaks[kind] = float(json.loads(done.stdout.splitlines()[-1]))
    print(f"{length} tokens, peak memory: " + ", ".join(f"{kind} {peak:.0f} MB" for kind, peak in peaks.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if options.memory:
        from benchmarks.protein import peak_above

        kind, length = options.memory
        attention = attentions()[kind]
        call(attention, inputs(64))  # libraries load what they need
        given = inputs(int(length))
        print(json.dumps(peak_above(lambda: call(attention, given))))
        return
    assert_equal()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for length in LENGTHS:
        measure_times(length, options.rounds)
    measure_memory(LENGTHS[-1])


if __name__ == "__main__":
    main()
