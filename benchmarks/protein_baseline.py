"""The backbone network as a plain transcription of its published description, with nothing rearranged.

It is what `modules/protein/network.py` is measured against and compared with. Features are concatenated before they are
multiplied, distances between points are taken from their differences, rotation matrices are made where they are used.
Its parameters carry the names of the published weights, so that `import_reqflow` turns them into ours.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.protein.network import ProteinNetworkConfig


def rotation_matrices(q: Tensor) -> Tensor:
    w, x, y, z = q.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion_product(p: Tensor, q: Tensor) -> Tensor:
    a, b, c, d = p.unbind(-1)
    w, x, y, z = q.unbind(-1)
    return torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        dim=-1,
    )


def index_embedding(index: Tensor, channels: int) -> Tensor:
    k = torch.arange(channels // 2)
    angles = index[..., None] * math.pi / 2056 ** (2 * k / channels)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


def time_embedding(t: Tensor, channels: int) -> Tensor:
    frequencies = torch.exp(torch.arange(channels // 2) * (-math.log(2056) / (channels // 2 - 1)))
    angles = (t * 2056)[:, None] * frequencies
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


def distogram(positions: Tensor, bins: int) -> Tensor:
    distances = torch.linalg.norm(positions[:, :, None, :] - positions[:, None, :, :], dim=-1)[..., None]
    lower = torch.linspace(0.001, 20.0, bins)
    upper = torch.cat([lower[1:], torch.tensor([1e8])])
    return ((distances > lower) * (distances < upper)).type(positions.dtype)


def tile_i(x: Tensor) -> Tensor:
    return torch.tile(x[:, :, None, :], (1, 1, x.shape[1], 1))


def tile_j(x: Tensor) -> Tensor:
    return torch.tile(x[:, None, :, :], (1, x.shape[1], 1, 1))


class NodeFeatures(nn.Module):
    def __init__(self, c: ProteinNetworkConfig) -> None:
        super().__init__()
        self.c = c
        self.linear = nn.Linear(c.index_channels + 1 + 2 * c.time_channels, c.node_width)

    def forward(self, so3_t: Tensor, r3_t: Tensor, mask: Tensor, diffuse: Tensor, index: Tensor) -> Tensor:
        length = mask.shape[1]
        position = index_embedding(index, self.c.index_channels) * mask[..., None]
        times = [
            torch.tile(time_embedding(t, self.c.time_channels)[:, None, :], (1, length, 1)) * mask[..., None]
            for t in (so3_t, r3_t)
        ]
        return self.linear(torch.cat([position, diffuse[..., None], *times], dim=-1))


class EdgeFeatures(nn.Module):
    def __init__(self, c: ProteinNetworkConfig) -> None:
        super().__init__()
        self.c = c
        columns = 3 * c.edge_channels + 2 * c.distance_bins + 2 * c.edge_knows_generated
        self.linear_s_p = nn.Linear(c.node_width, c.edge_channels)
        self.linear_relpos = nn.Linear(c.edge_channels, c.edge_channels)
        self.edge_embedder = nn.Sequential(
            nn.Linear(columns, c.edge_width),
            nn.ReLU(),
            nn.Linear(c.edge_width, c.edge_width),
            nn.ReLU(),
            nn.Linear(c.edge_width, c.edge_width),
            nn.LayerNorm(c.edge_width),
        )

    def forward(self, s: Tensor, t: Tensor, sc_t: Tensor, pair_mask: Tensor, diffuse: Tensor) -> Tensor:
        p = self.linear_s_p(s)
        at = torch.arange(s.shape[1], dtype=torch.float32)
        offset = (at[:, None] - at[None, :])[None].repeat(len(s), 1, 1)
        offset_feats = self.linear_relpos(index_embedding(offset, self.c.edge_channels))
        bins = self.c.distance_bins
        features = [tile_i(p), tile_j(p), offset_feats, distogram(t, bins), distogram(sc_t, bins)]
        if self.c.edge_knows_generated:
            features += [tile_i(diffuse[..., None]), tile_j(diffuse[..., None])]
        return self.edge_embedder(torch.cat(features, dim=-1)) * pair_mask[..., None]


class PointAttention(nn.Module):
    def __init__(self, c: ProteinNetworkConfig) -> None:
        super().__init__()
        self.c = c
        width, heads = c.node_width, c.heads
        self.head_weights = nn.Parameter(torch.full((heads,), 0.541324854612918))
        self.linear_q = nn.Linear(width, heads * c.head_width)
        self.linear_kv = nn.Linear(width, 2 * heads * c.head_width)
        self.linear_q_points = nn.Linear(width, heads * c.query_points * 3)
        self.linear_kv_points = nn.Linear(width, heads * (c.query_points + c.value_points) * 3)
        self.linear_b = nn.Linear(c.edge_width, heads)
        self.down_z = nn.Linear(c.edge_width, c.pair_value_width)
        self.linear_out = nn.Linear(heads * (c.head_width + 4 * c.value_points + c.pair_value_width), width)

    def place(self, points: Tensor, q: Tensor, x: Tensor, per_head: int) -> Tensor:
        split = torch.stack(torch.split(points, points.shape[-1] // 3, dim=-1), dim=-1)
        placed = (rotation_matrices(q)[:, :, None] * split[..., None, :]).sum(-1) + x[:, :, None]
        return placed.view(*placed.shape[:2], self.c.heads, per_head, 3)

    def forward(self, s: Tensor, z: Tensor, q: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        c = self.c
        queries = self.linear_q(s).view(*s.shape[:2], c.heads, -1)
        keys, values = self.linear_kv(s).view(*s.shape[:2], c.heads, -1).split(c.head_width, dim=-1)
        q_points = self.place(self.linear_q_points(s), q, x, c.query_points)
        kv_points = self.place(self.linear_kv_points(s), q, x, c.query_points + c.value_points)
        k_points, v_points = kv_points.split([c.query_points, c.value_points], dim=-2)
        logits = torch.matmul(queries.permute(0, 2, 1, 3), keys.permute(0, 2, 3, 1))
        logits = logits * math.sqrt(1.0 / (3 * c.head_width))
        logits = logits + math.sqrt(1.0 / 3) * self.linear_b(z).permute(0, 3, 1, 2)
        displacement = q_points[:, :, None] - k_points[:, None]
        squared = (displacement**2).sum(-1)
        weights = F.softplus(self.head_weights) * math.sqrt(1.0 / (3 * (c.query_points * 9.0 / 2)))
        points = (squared * weights[:, None]).sum(-1) * -0.5
        logits = logits + points.permute(0, 3, 1, 2)
        logits = logits + (1e5 * (mask[:, :, None] * mask[:, None, :] - 1))[:, None]
        a = torch.softmax(logits, dim=-1)
        o = torch.matmul(a, values.transpose(1, 2)).transpose(1, 2).flatten(2)
        spread = a[..., None] * v_points.permute(0, 2, 3, 4, 1).flatten(2, 3)[:, :, None].transpose(-1, -2)
        o_points = spread.sum(-2).unflatten(-1, (c.value_points, 3)).transpose(1, 2)
        o_points = o_points - x[:, :, None, None]
        o_points = (rotation_matrices(q)[:, :, None, None].transpose(-1, -2) * o_points[..., None, :]).sum(-1)
        norms = torch.sqrt((o_points**2).sum(-1) + 1e-8).flatten(2)
        o_points = o_points.flatten(2, 3)
        pair = torch.matmul(a.transpose(1, 2), self.down_z(z)).flatten(2)
        return self.linear_out(torch.cat([o, *torch.unbind(o_points, dim=-1), norms, pair], dim=-1))


class Transition(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2, self.linear_3 = (nn.Linear(width, width) for _ in range(3))
        self.ln = nn.LayerNorm(width)

    def forward(self, s: Tensor) -> Tensor:
        return self.ln(s + self.linear_3(F.relu(self.linear_2(F.relu(self.linear_1(s))))))


class EdgeTransition(nn.Module):
    def __init__(self, c: ProteinNetworkConfig) -> None:
        super().__init__()
        width = c.node_width // 2
        hidden = c.edge_width + 2 * width
        self.initial_embed = nn.Linear(c.node_width, width)
        self.trunk = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.final_layer = nn.Linear(hidden, c.edge_width)
        self.layer_norm = nn.LayerNorm(c.edge_width)

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        n = self.initial_embed(s)
        joined = torch.cat([z, torch.cat([tile_i(n), tile_j(n)], dim=-1)], dim=-1)
        flat = joined.reshape(-1, joined.shape[-1])
        renewed = self.layer_norm(self.final_layer(self.trunk(flat) + flat))
        return renewed.reshape(*z.shape)


class FrameUpdate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 6)

    def forward(self, s: Tensor, q: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        update = self.linear(s) * mask[..., None]
        turned = quaternion_product(q, torch.cat([torch.ones_like(update[..., :1]), update[..., :3]], dim=-1))
        moved = x + (rotation_matrices(q) * update[..., None, 3:]).sum(-1)
        return turned / torch.linalg.norm(turned, dim=-1, keepdim=True), moved


class Baseline(nn.Module):
    """The published network; call and result are those of `ProteinNetwork`."""

    def __init__(self, c: ProteinNetworkConfig) -> None:
        super().__init__()
        self.c = c
        self.node_feature_net = NodeFeatures(c)
        self.edge_feature_net = EdgeFeatures(c)
        self.trunk = nn.ModuleDict()
        width = c.node_width
        for b in range(c.blocks):
            self.trunk[f"ipa_{b}"] = PointAttention(c)
            self.trunk[f"ipa_ln_{b}"] = nn.LayerNorm(width)
            layer = nn.TransformerEncoderLayer(width, c.transformer_heads, width, dropout=0.0, batch_first=True)
            self.trunk[f"seq_tfmr_{b}"] = nn.TransformerEncoder(layer, c.transformer_layers, enable_nested_tensor=False)
            self.trunk[f"post_tfmr_{b}"] = nn.Linear(width, width)
            self.trunk[f"node_transition_{b}"] = Transition(width)
            self.trunk[f"bb_update_{b}"] = FrameUpdate(width)
            if b < c.blocks - 1:
                self.trunk[f"edge_transition_{b}"] = EdgeTransition(c)

    def forward(
        self,
        frames: Tensor,
        t_rotation: Tensor,
        t_translation: Tensor,
        *,
        resolved: Tensor,
        generated: Tensor,
        residue_index: Tensor,
        self_condition: Tensor | None = None,
    ) -> Tensor:
        q, x, trunk = frames[..., :4], frames[..., 4:], self.trunk
        mask, diffuse = resolved.float(), generated.float()
        pair_mask = mask[:, :, None] * mask[:, None, :]
        s = self.node_feature_net(t_rotation, t_translation, mask, diffuse, residue_index.float()) * mask[..., None]
        sc = torch.zeros_like(x) if self_condition is None else self_condition
        z = self.edge_feature_net(s, x, sc, pair_mask, diffuse)
        x = x / 10.0
        for b in range(self.c.blocks):
            s = trunk[f"ipa_ln_{b}"](s + trunk[f"ipa_{b}"](s, z, q, x, mask) * mask[..., None])
            along = trunk[f"seq_tfmr_{b}"](s, src_key_padding_mask=~resolved)
            s = s + trunk[f"post_tfmr_{b}"](along)
            s = trunk[f"node_transition_{b}"](s) * mask[..., None]
            q, x = trunk[f"bb_update_{b}"](s * mask[..., None], q, x, mask * diffuse)
            if b < self.c.blocks - 1:
                z = trunk[f"edge_transition_{b}"](s, z) * pair_mask[..., None]
        return torch.cat([q, x * 10.0], dim=-1)


def backbone_atoms(q: Tensor, x: Tensor, torsions: Tensor, tables: dict[str, Tensor]) -> Tensor:
    """N, CA, C [N,3,3], as the first of the 14 atoms that a residue may have, placed by its 8 rigid groups.

    q [N,4]; x [N,3]; torsions [N,7,2], sine and cosine, by which the groups after the backbone are turned.
    """
    length = len(q)
    kind = torch.zeros(length, dtype=torch.long)
    group_frames = tables["group_frames"][kind]
    turned = torch.cat([torch.tensor([0.0, 1.0]).expand(length, 1, 2), torsions], dim=1)
    turns = torch.zeros(length, 8, 3, 3)
    turns[..., 0, 0] = 1
    turns[..., 1, 1] = turns[..., 2, 2] = turned[..., 1]
    turns[..., 1, 2], turns[..., 2, 1] = -turned[..., 0], turned[..., 0]
    rotations = list(torch.matmul(group_frames[..., :3, :3], turns).unbind(1))
    shifts = list(group_frames[..., :3, 3].unbind(1))
    for group in (5, 6, 7):  # each side-chain group hangs on the one before
        parent, moved = rotations[group - 1], shifts[group]
        shifts[group] = (parent * moved[:, None]).sum(-1) + shifts[group - 1]
        rotations[group] = torch.matmul(parent, rotations[group])
    backbone = rotation_matrices(q)
    to_global = torch.stack([torch.matmul(backbone, r) for r in rotations], dim=1)
    origins = torch.stack([(backbone * s[:, None]).sum(-1) + x for s in shifts], dim=1)
    one_hot = F.one_hot(tables["atom_group"][kind], 8).to(q.dtype)
    rotation = (to_global[:, None] * one_hot[..., None, None]).sum(2)
    origin = (origins[:, None] * one_hot[..., None]).sum(2)
    placed = (rotation * tables["atom_position"][kind][..., None, :]).sum(-1) + origin
    return (placed * tables["atom_mask"][kind][..., None])[:, :3]


def alanine_tables() -> dict[str, Tensor]:
    """What `backbone_atoms` looks up for each of 21 kinds of residue; all are alanine here."""
    positions = torch.zeros(21, 14, 3)
    positions[:, :3] = torch.tensor([[-0.525, 1.363, 0.0], [0.0, 0.0, 0.0], [1.526, 0.0, 0.0]])
    group = torch.zeros(21, 14, dtype=torch.long)
    group[:, 3] = 3
    mask = torch.zeros(21, 14)
    mask[:, :5] = 1
    return {
        "group_frames": torch.eye(4).expand(21, 8, 4, 4).contiguous(),
        "atom_group": group,
        "atom_position": positions,
        "atom_mask": mask,
    }


def igso3_rows(sigmas: Tensor, angles: int = 1000, terms: int = 1001) -> Tensor:
    """The distribution function of the angle of IGSO(3) by summing up its density, a row for each sigma."""
    omega = torch.linspace(0, math.pi, angles + 1, dtype=torch.float64)[1:]
    order = torch.arange(terms, dtype=torch.float64)[:, None]
    rows = []
    for sigma in sigmas:
        series = (2 * order + 1) * torch.exp(-order * (order + 1) * sigma**2 / 2) * torch.sin((order + 0.5) * omega)
        density = (1 - torch.cos(omega)) / math.pi * series.sum(0) / torch.sin(omega / 2)
        rows.append(density.cumsum(0) * math.pi / angles)
    return torch.stack(rows)
