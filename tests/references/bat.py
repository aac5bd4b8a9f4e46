"""BAT written out in loops from its definition: one image, one token, one distance at a time, in double precision.

It shares no code with vitrim/methods/bat.py.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch

DEFAULTS = dict(
    keep=0.7,
    at=(1, 2, 3),
    merge="cluster+match",
    clusters=None,
    pairs=None,
    neighbours=5,
    normalise=True,
    merger="density",
    iterations=3,
    score="cls",
)


def attend(block, x, prefix, class_tokens, score):
    """x + attention(norm1(x)); class attention and the scores of the patch tokens, as lists."""
    attn, h = block.attn, block.norm1(x)
    q, k, v = attn.qkv(h).reshape(len(h), 3, attn.num_heads, attn.head_dim).permute(1, 2, 0, 3)
    maps = [(q[j] @ k[j].T / math.sqrt(attn.head_dim)).softmax(dim=-1) for j in range(attn.num_heads)]
    out = torch.cat([one @ v[j] for j, one in enumerate(maps)], dim=1)
    mean = sum(maps) / len(maps)
    rows = class_tokens if score == "cls" else range(len(h))
    scores = [sum(float(mean[r, j]) for r in rows) / len(rows) for j in range(prefix, len(h))]
    weights = (
        [sum(float(mean[r, j]) for r in class_tokens) / len(class_tokens) for j in range(prefix, len(h))]
        if class_tokens
        else scores
    )
    return x + block.ls1(attn.proj(out)), scores, weights


def squared(a, b):
    return float(((a - b) ** 2).sum())


def density_groups(z, m, neighbours):
    """(centre, members) for each cluster: Eq. 6 with the mean over the nearest neighbours, Eq. 7."""
    q = len(z)
    if m == 1 or m == q:
        return None if m == 1 else [(i, [i]) for i in range(q)]
    d = [[squared(z[i], z[j]) / z.shape[1] for j in range(q)] for i in range(q)]
    density = []
    for i in range(q):
        near = sorted(d[i][j] for j in range(q) if j != i)[: neighbours or q]
        density.append(-sum(near) / len(near))
    denser = [[j for j in range(q) if (density[j], -j) > (density[i], -i)] for i in range(q)]
    delta = [min(d[i][j] for j in denser[i]) if denser[i] else max(d[i]) for i in range(q)]
    peak = [density[i] + (math.log(delta[i]) if delta[i] > 0 else -math.inf) for i in range(q)]
    centres = sorted(sorted(range(q), key=lambda i: (-peak[i], i))[:m])
    groups = {c: [c] for c in centres}
    for i in range(q):
        if i not in groups:
            candidates = [c for c in centres if c in denser[i]] or centres
            groups[min(candidates, key=lambda c: (d[i][c], c))].append(i)
    return [(c, groups[c]) for c in centres]


def kmeans_groups(z, m, iterations):
    """Seeds are the first m tokens and stay in their groups."""
    q = len(z)
    if m == 1 or m == q:
        return None if m == 1 else [(i, [i]) for i in range(q)]
    centres, groups = [z[i] for i in range(m)], []
    for _ in range(iterations):
        groups = [[g] for g in range(m)]
        for i in range(m, q):
            groups[min(range(m), key=lambda g: squared(z[i], centres[g]))].append(i)
        centres = [sum(z[i] for i in members) / len(members) for members in groups]
    return [(g, members) for g, members in enumerate(groups)]


def run_groups(q, m):
    groups = [[i for i in range(q) if i * m // q == g] for g in range(m)]
    return [(members[(len(members) - 1) // 2], members) for members in groups]


def matches(z, p):
    """(token that joins, token that it joins), by rank: greedy over the proposals, best first."""
    cosine = torch.nn.functional.cosine_similarity
    proposals = []
    for i in range(0, len(z), 2):
        alike = {j: float(cosine(z[i], z[j], dim=0)) for j in range(1, len(z), 2)}
        if alike:
            best = max(alike, key=lambda j: (alike[j], -j))
            proposals.append((-alike[best], i, best))
    taken, first, later = set(), [], []
    for _, i, j in sorted(proposals):
        (later if j in taken else first).append((i, j))
        taken.add(j)
    return (first + later)[:p]


def curve(patch, width):
    """Place on the Z-order curve: bits of row and column in turn, the row's first."""
    row, column = f"{patch // width:08b}", f"{patch % width:08b}"
    return int("".join(r + c for r, c in zip(row, column, strict=True)), 2)


def in_order(rest, places, o, width):
    if o.merge == "pack" or o.merger == "kmeans":
        return rest
    if o.merger == "density":
        return sorted(rest)
    return sorted(rest, key=lambda i: curve(places[i], width) if o.merger == "spatial" else places[i])


def groups_of(z, importance, m, o):
    if o.merger in ("density", "kmeans"):
        found = density_groups(z, m, o.neighbours) if o.merger == "density" else kmeans_groups(z, m, o.iterations)
        return found or [(max(range(len(z)), key=lambda i: importance[i]), list(range(len(z))))]
    return run_groups(len(z), m)


def combine(x, members, weights, normalise):
    total = sum(weights) if normalise else 1
    return sum(w * x[i] for w, i in zip(weights, members, strict=True)) / total


def learned(weigher, z):
    """Weights of the learned mergers: z [q, c]."""
    z = weigher.norm(z)
    if isinstance(weigher.hidden, torch.nn.Linear):
        scores = [weigher.score(torch.nn.functional.gelu(weigher.hidden(row))).item() for row in z]
    else:
        scores = weigher.score(torch.nn.functional.gelu(weigher.hidden(z.T[None])))[0, 0].tolist()
    return [math.exp(score - max(scores)) for score in scores]


def sizes_of_parts(n, index, o):
    """K, m, p."""
    at = lambda given: given[index] if isinstance(given, tuple) else given  # noqa: E731
    k = math.ceil(at(o.keep) * n - 1e-9)
    m = at(o.clusters)
    if m is None:
        m = 2 if o.merge == "cluster" and k else max(1, round(0.1 * (n - k)))
    m = 1 if o.merge == "pack" else min(m, n - k)
    p = m - 1 if o.pairs is None else at(o.pairs)
    return k, m, min(p, k // 2) if o.merge == "cluster+match" else 0


def reduce(x, prefix, scores, importance, sizes, places, index, o, width, weigher):
    """The new sequence, the sizes and the places of its tokens."""
    front, x, n = x[:prefix], x[prefix:], len(x) - prefix
    k, m, p = sizes_of_parts(n, index, o)
    if k == n:
        return torch.cat([front, x]), sizes, places
    order = sorted(range(n), key=lambda i: -scores[i])
    attentive, rest = order[:k], in_order(order[k:], places, o, width)
    new = []  # (features, members, the one whose place is taken)
    joins = {attentive[i]: attentive[j] for i, j in matches(x[attentive], p)} if p else {}
    for i in attentive:
        if i not in joins:
            members = [i] + [j for j in joins if joins[j] == i]
            one = combine(x, members, [importance[j] for j in members], o.normalise) if len(members) > 1 else x[i]
            new.append((one, members, i))
    if o.merge != "none":
        z, weights = x[rest], [importance[i] for i in rest]
        found = groups_of(z, weights, m, o)
        own = None if weigher is None else learned(weigher, z)
        for lead, members in found:
            if o.merger == "max":
                one = z[members].amax(dim=0)
            elif o.merger in ("density", "kmeans"):
                one = combine(z, members, [weights[i] for i in members], o.normalise)
            else:
                one = combine(z, members, [own[i] if own else 1.0 for i in members], True)
            new.append((one, [rest[i] for i in members], rest[lead]))
    x = torch.stack([*front, *(one for one, _, _ in new)])
    return x, [sum(sizes[i] for i in members) for _, members, _ in new], [places[lead] for _, _, lead in new]


def features(model, image, class_tokens=(0,), weighers=None, **options):
    """Features after the final norm [tokens, c], sizes and places of the patch tokens, for one image [3, h, w]."""
    o = SimpleNamespace(**{**DEFAULTS, **options})
    x, prefix = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0], model.num_prefix_tokens
    sizes, places, width = [1] * (len(x) - prefix), list(range(len(x) - prefix)), model.patch_embed.grid_size[1]
    for i, block in enumerate(model.blocks):
        x, scores, importance = attend(block, x, prefix, class_tokens, o.score)
        if i in o.at:
            index = o.at.index(i)
            weigher = None if weighers is None else weighers[index]
            x, sizes, places = reduce(x, prefix, scores, importance, sizes, places, index, o, width, weigher)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.norm(x), sizes, places
