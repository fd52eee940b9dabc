"""Rows of the embedding: compiled and eager, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import embedding
from gemcore.models import ops
from gemcore.packing import pack_weight
from gemcore.schemes import SCHEMES, get_scheme

ROWS, HIDDEN = 41, 128


@pytest.fixture(scope="module", params=SCHEMES)
def scheme(request):
    return get_scheme(request.param)


@pytest.fixture(scope="module")
def kernel(machine, scheme):
    return machine.compile(embedding.embedding(machine.isa, scheme, ROWS, HIDDEN))


def test_embedding(kernel, scheme, tokens):
    weight = np.random.default_rng(0).standard_normal((ROWS, HIDDEN), dtype=np.float32)
    packed = torch.from_numpy(pack_weight(weight, scheme))
    ids = torch.arange(tokens, dtype=torch.int32) * 29 % ROWS
    ids[0] = ROWS - 1
    expected = ops.embedding(ids, packed, scheme.name, HIDDEN)
    found = kernel(ids, packed, torch.zeros_like(expected))[-1]
    np.testing.assert_array_equal(found, expected.numpy())
