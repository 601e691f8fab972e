"""Forecasters and their training loop as plain transcriptions of the published descriptions, nothing rearranged.

They are what `modules/forecast` and `data/forecast/windows.py` are measured against and compared with: a data set that
slices one window per call, feed-forward layers as convolutions of width 1 between transposes, attention as sums over
named indices, an optimizer that goes through the parameters one by one. Parameters carry the names of the published
weights, so that the importers turn them into ours.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

EPS = 1e-5
Window = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


class WindowDataset(Dataset[Window]):
    """One window per call: what is seen, what is to be predicted (with the last part of what was seen), and the time
    features of both."""

    def __init__(
        self, values: NDArray[np.float64], marks: NDArray[np.float64], look_back: int, horizon: int, overlap: int
    ) -> None:
        self.values, self.marks = values, marks
        self.look_back, self.horizon, self.overlap = look_back, horizon, overlap

    def __len__(self) -> int:
        return len(self.values) - self.look_back - self.horizon + 1

    def __getitem__(self, index: int) -> Window:
        end = index + self.look_back
        begin, last = end - self.overlap, end + self.horizon
        return self.values[index:end], self.values[begin:last], self.marks[index:end], self.marks[begin:last]


class MovingAverage(nn.Module):
    """Mean over `width` steps; the first and last value repeated where the window ends."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.average = nn.AvgPool1d(kernel_size=width, stride=1, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        front = x[:, :1, :].repeat(1, (self.width - 1) // 2, 1)
        back = x[:, -1:, :].repeat(1, (self.width - 1) // 2, 1)
        padded = torch.cat([front, x, back], dim=1)
        return self.average(padded.permute(0, 2, 1)).permute(0, 2, 1)


class DLinear(nn.Module):
    """One linear map of the moving average and one of the rest (Zeng et al. 2023)."""

    def __init__(self, look_back: int, horizon: int, moving_average: int = 25) -> None:
        super().__init__()
        self.average = MovingAverage(moving_average)
        self.Linear_Seasonal = nn.Linear(look_back, horizon)
        self.Linear_Trend = nn.Linear(look_back, horizon)

    def forward(self, x: Tensor, marks: Tensor | None) -> Tensor:
        trend = self.average(x)
        seasonal = x - trend
        seasonal, trend = seasonal.permute(0, 2, 1), trend.permute(0, 2, 1)
        return (self.Linear_Seasonal(seasonal) + self.Linear_Trend(trend)).permute(0, 2, 1)


class SpelledAttention(nn.Module):
    """softmax(q kᵀ / √d) v, score by score, with dropout on the weights."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        scores = torch.einsum("blhe,bshe->bhls", queries, keys)
        weights = self.dropout(torch.softmax(scores / math.sqrt(queries.shape[-1]), dim=-1))
        return torch.einsum("bhls,bshd->blhd", weights, values).contiguous()


class AttentionLayer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.inner_attention = SpelledAttention(dropout)
        self.query_projection, self.key_projection = nn.Linear(width, width), nn.Linear(width, width)
        self.value_projection, self.out_projection = nn.Linear(width, width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        queries = self.query_projection(x).view(batch, tokens, self.heads, -1)
        keys = self.key_projection(x).view(batch, tokens, self.heads, -1)
        values = self.value_projection(x).view(batch, tokens, self.heads, -1)
        return self.out_projection(self.inner_attention(queries, keys, values).view(batch, tokens, -1))


class EncoderLayer(nn.Module):
    """Attention, then two convolutions of width 1; a layer norm after each, on the sum with its input."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = AttentionLayer(width, heads, dropout)
        self.conv1, self.conv2 = nn.Conv1d(width, hidden, kernel_size=1), nn.Conv1d(hidden, width, kernel_size=1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(x))
        y = x = self.norm1(x)
        y = self.dropout(F.gelu(self.conv1(y.transpose(-1, 1))))
        y = self.dropout(self.conv2(y).transpose(-1, 1))
        return self.norm2(x + y)


class Encoder(nn.Module):
    def __init__(self, layers: list[EncoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.attn_layers:
            x = layer(x)
        return self.norm(x)


class InvertedEmbedding(nn.Module):
    """A token for each column, of its whole window; the time features come after the columns."""

    def __init__(self, look_back: int, width: int, dropout: float) -> None:
        super().__init__()
        self.value_embedding = nn.Linear(look_back, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, marks: Tensor | None) -> Tensor:
        x = x.permute(0, 2, 1)
        if marks is not None:
            x = torch.cat([x, marks.permute(0, 2, 1)], 1)
        return self.dropout(self.value_embedding(x))


def normalised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The windows, each minus its mean and over its standard deviation; both."""
    mean = x.mean(1, keepdim=True).detach()
    x = x - mean
    deviation = torch.sqrt(torch.var(x, dim=1, keepdim=True, unbiased=False) + EPS)
    return x / deviation, mean, deviation


def restored(y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    horizon = y.shape[1]
    y = y * deviation[:, 0, :].unsqueeze(1).repeat(1, horizon, 1)
    return y + mean[:, 0, :].unsqueeze(1).repeat(1, horizon, 1)


class ITransformer(nn.Module):
    """Attention between columns (Liu et al. 2024)."""

    def __init__(
        self, look_back: int, horizon: int, *, layers: int, width: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.enc_embedding = InvertedEmbedding(look_back, width, dropout)
        blocks = [EncoderLayer(width, heads, hidden, dropout) for _ in range(layers)]
        self.encoder = Encoder(blocks, nn.LayerNorm(width))
        self.projection = nn.Linear(width, horizon)

    def forward(self, x: Tensor, marks: Tensor | None) -> Tensor:
        x, mean, deviation = normalised(x)
        columns = x.shape[-1]
        tokens = self.encoder(self.enc_embedding(x, marks))
        y = self.projection(tokens).permute(0, 2, 1)[:, :, :columns]
        return restored(y, mean, deviation)


class PositionTable(nn.Module):
    """Sines and cosines of wavelengths from 2π to 20000π."""

    pe: Tensor

    def __init__(self, width: int, longest: int = 5000) -> None:
        super().__init__()
        position = torch.arange(longest).float().unsqueeze(1)
        rate = (torch.arange(0, width, 2).float() * -(math.log(10000.0) / width)).exp()
        table = torch.zeros(longest, width)
        table[:, 0::2], table[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
        self.register_buffer("pe", table.unsqueeze(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.pe[:, : x.size(1)]


class PatchEmbedding(nn.Module):
    """Overlapping patches of each column alone, the newest value repeated `stride` times before they are cut."""

    def __init__(self, width: int, patch: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        self.padding = nn.ReplicationPad1d((0, stride))
        self.value_embedding = nn.Linear(patch, width, bias=False)
        self.position_embedding = PositionTable(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        columns = x.shape[1]
        x = self.padding(x).unfold(dimension=-1, size=self.patch, step=self.stride)
        x = torch.reshape(x, (x.shape[0] * x.shape[1], x.shape[2], x.shape[3]))
        return self.dropout(self.value_embedding(x) + self.position_embedding(x)), columns


class Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class FlattenHead(nn.Module):
    def __init__(self, features: int, horizon: int, dropout: float) -> None:
        super().__init__()
        self.flatten = nn.Flatten(start_dim=-2)
        self.linear = nn.Linear(features, horizon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(self.flatten(x)))


class PatchTST(nn.Module):
    """Attention between the patches of one column (Nie et al. 2023), as the Time-Series-Library builds it."""

    def __init__(
        self,
        look_back: int,
        horizon: int,
        *,
        layers: int,
        width: int,
        heads: int,
        hidden: int,
        dropout: float,
        patch: int = 16,
        stride: int = 8,
    ) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(width, patch, stride, dropout)
        blocks = [EncoderLayer(width, heads, hidden, dropout) for _ in range(layers)]
        norm = nn.Sequential(Transpose(), nn.BatchNorm1d(width), Transpose())
        self.encoder = Encoder(blocks, norm)
        self.head = FlattenHead(width * ((look_back - patch) // stride + 2), horizon, dropout)

    def forward(self, x: Tensor, marks: Tensor | None) -> Tensor:
        x, mean, deviation = normalised(x)
        tokens, columns = self.patch_embedding(x.permute(0, 2, 1))
        tokens = self.encoder(tokens)
        tokens = torch.reshape(tokens, (-1, columns, tokens.shape[-2], tokens.shape[-1]))
        y = self.head(tokens.permute(0, 1, 3, 2)).permute(0, 2, 1)
        return restored(y, mean, deviation)


class TrainingLoop:
    """Endless steps of training, batch after batch of a shuffled loader, every loss kept as a number."""

    def __init__(self, model: nn.Module, data: WindowDataset, batch: int, learning_rate: float, seed: int = 0) -> None:
        self.model, self.horizon, self.overlap = model.train(), data.horizon, data.overlap
        shuffled = torch.Generator().manual_seed(seed)
        self.loader = DataLoader(
            data, batch_size=batch, shuffle=True, num_workers=0, drop_last=False, generator=shuffled
        )
        self.batches = iter(self.loader)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        self.criterion = nn.MSELoss()
        self.losses: list[float] = []

    def step(self) -> None:
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        self.optimizer.zero_grad()
        x, y, marks, later_marks = (part.float() for part in batch)
        # The published loop hands every network an input for a decoder, whether it has one or not.
        decoder = torch.zeros_like(y[:, -self.horizon :, :]).float()
        decoder = torch.cat([y[:, : self.overlap, :], decoder], dim=1).float()
        del decoder, later_marks
        forecast = self.model(x, marks)[:, -self.horizon :, :]
        loss = self.criterion(forecast, y[:, -self.horizon :, :])
        self.losses.append(loss.item())
        loss.backward()
        self.optimizer.step()
