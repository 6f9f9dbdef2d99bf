"""DeepSeek-V4 written literally in float64, token by token, from the equations: the tests' oracle.

Nothing of dsv4 is used but the names of weights. One sequence, no cache, no batching, no blocks.
What a packed model rounds is rounded by a `Rounding`, at the places that the specification names.
"""

import math

import torch


def rms(x, eps, weight=1.0):
    return x * (x.square().mean(-1, keepdim=True) + eps) ** -0.5 * weight


def frequencies(config, layer):
    r = config.qk_rope_head_dim
    compressed = layer < config.num_hidden_layers and config.compress_ratios[layer] > 0
    theta = config.compress_rope_theta if compressed else config.rope_theta
    plain = [theta ** (-2 * j / r) for j in range(r // 2)]
    yarn = config.rope_scaling
    if not compressed or yarn is None:
        return plain

    def dim(beta):
        length = yarn["original_max_position_embeddings"]
        return r * math.log(length / (beta * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dim(yarn["beta_fast"])), 0)
    high = min(math.ceil(dim(yarn["beta_slow"])), r - 1)
    high = high + 0.001 if high == low else high
    out = []
    for j, f in enumerate(plain):
        ramp = min(max((j - low) / (high - low), 0), 1)
        out.append(f * (1 - ramp) + f / yarn["factor"] * ramp)
    return out


def turn(x, position, freqs):
    """Rotate the last channels of x [.., c] to `position`."""
    out, start = x.clone(), x.shape[-1] - 2 * len(freqs)
    for j, f in enumerate(freqs):
        a, b = x[..., start + 2 * j], x[..., start + 2 * j + 1]
        cos, sin = math.cos(position * f), math.sin(position * f)
        out[..., start + 2 * j] = a * cos - b * sin
        out[..., start + 2 * j + 1] = a * sin + b * cos
    return out


def same(x):
    return x


class Rounding:
    """What is done to a value where it is stored or multiplied; here nothing."""

    activation = staticmethod(same)  # streams and whatever a module hands on
    operand = staticmethod(same)  # the input of a quantised linear
    operand_of_wo_a = staticmethod(same)
    entry = staticmethod(same)  # window and compressed entries, [c]
    key = staticmethod(same)  # indexer keys and queries, [.., ic]
    index_weight = staticmethod(same)
    score = staticmethod(same)
    probability = staticmethod(same)


class Reference:
    """state: name → float64 tensor, experts stacked as in the model's state_dict."""

    first = 0  # position of the first token

    def __init__(self, model, rounding=Rounding):
        self.config, self.round = model.config, rounding
        self.w = {
            k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()
        }

    def logits(self, ids):
        """ids: list of n ints → [n, vocab]."""
        streams = self.streams(ids)
        return torch.stack([self.head("", x) for x in streams]) @ self.w["head.weight"].T

    def draft_logits(self, ids):
        """MTP logits for token t + 2, from streams of t and the id of t + 1: [n − 1, vocab]."""
        c, w = self.config, self.w
        rows = []
        for x, following in zip(self.streams(ids)[:-1], ids[1:], strict=True):
            e = rms(w["embed.weight"][following], c.rms_norm_eps, w["mtp.0.enorm.weight"])
            h = rms(x, c.rms_norm_eps, w["mtp.0.hnorm.weight"])
            e, h = (self.round.operand(self.round.activation(x)) for x in (e, h))
            e = self.round.activation(w["mtp.0.e_proj.weight"] @ e)
            h = self.round.activation(h @ w["mtp.0.h_proj.weight"].T)
            rows.append(self.round.activation(e + h))
        out = self.block("mtp.0.", c.num_hidden_layers, rows, ids[1:])
        return torch.stack([self.head("mtp.0.", x) for x in out]) @ w["head.weight"].T

    def streams(self, ids):
        rows = [self.w["embed.weight"][i].repeat(self.config.hc_mult, 1) for i in ids]
        for layer in range(self.config.num_hidden_layers):
            rows = self.block(f"layers.{layer}.", layer, rows, ids)
        return rows

    def block(self, at, layer, rows, ids):
        for part in ("attn", "ffn"):
            mixes = [self.mix(f"{at}hc_{part}", x) for x in rows]
            inputs = [
                self.norm((pre[:, None] * x).sum(0), f"{at}{part}_norm.weight")
                for (pre, _, _), x in zip(mixes, rows, strict=True)
            ]
            if part == "attn":
                outputs = self.attention(f"{at}attn.", layer, inputs)
            else:
                outputs = [
                    self.moe(f"{at}ffn.", layer, u, i) for u, i in zip(inputs, ids, strict=True)
                ]
            rows = [
                self.round.activation(post[:, None] * y + comb.T @ x)
                for (_, post, comb), x, y in zip(mixes, rows, outputs, strict=True)
            ]
        return rows

    def mix(self, at, x):
        c, w, hc = self.config, self.w, self.config.hc_mult
        flat = x.flatten()
        z = (w[f"{at}_fn"] @ flat) / (flat.square().mean() + c.rms_norm_eps).sqrt()
        scale, base = w[f"{at}_scale"], w[f"{at}_base"]
        pre = torch.sigmoid(z[:hc] * scale[0] + base[:hc]) + c.hc_eps
        post = 2 * torch.sigmoid(z[hc : 2 * hc] * scale[1] + base[hc : 2 * hc])
        comb = (z[2 * hc :] * scale[2] + base[2 * hc :]).reshape(hc, hc)
        comb = comb.softmax(-1) + c.hc_eps
        comb = comb / (comb.sum(0, keepdim=True) + c.hc_eps)
        for _ in range(c.hc_sinkhorn_iters - 1):
            comb = comb / (comb.sum(1, keepdim=True) + c.hc_eps)
            comb = comb / (comb.sum(0, keepdim=True) + c.hc_eps)
        return pre, post, comb

    def head(self, at, x):
        return self.norm(self.fold(at, x), f"{at}norm.weight")

    def fold(self, at, x):
        c, w = self.config, self.w
        flat = x.flatten()
        z = (w[f"{at}hc_head_fn"] @ flat) / (flat.square().mean() + c.rms_norm_eps).sqrt()
        pre = torch.sigmoid(z * w[f"{at}hc_head_scale"] + w[f"{at}hc_head_base"]) + c.hc_eps
        return (pre[:, None] * x).sum(0)

    def norm(self, x, name):
        """RMSNorm of a rounded x, rounded."""
        normed = rms(self.round.activation(x), self.config.rms_norm_eps, self.w[name])
        return self.round.activation(normed)

    def linear(self, name, x):
        """The quantised linear `name`: its input and its output are rounded."""
        return self.round.activation(self.w[name] @ self.round.operand(x))

    def attention(self, at, layer, inputs):
        c, w = self.config, self.w
        heads, dim, freqs = c.num_attention_heads, c.head_dim, frequencies(c, layer)
        kind = c.kind(layer).name
        m = c.compress_ratios[layer] if kind != "SLIDING" else 0
        r = self.round
        qr = [self.norm(self.linear(f"{at}wq_a.weight", u), f"{at}q_norm.weight") for u in inputs]
        window = []
        for t, u in enumerate(inputs, self.first):
            window.append(self.window_entry(at, u, t, freqs))
        entries = self.compress(f"{at}compressor.", kind, m, dim, inputs, freqs) if m else []
        entries = [r.entry(entry) for entry in entries]
        keys = []
        if kind == "CSA":
            keys = self.compress(
                f"{at}indexer.compressor.", kind, m, c.index_head_dim, inputs, freqs
            )
            keys = [r.key(key) for key in keys]
        out = []
        for t, u in enumerate(inputs, self.first):
            q = self.linear(f"{at}wq_b.weight", qr[t - self.first]).view(heads, dim)
            q = r.activation(turn(r.activation(rms(q, c.rms_norm_eps)), t, freqs))
            seen = list(range((t + 1) // m)) if m else []
            if kind == "CSA":
                seen = self.choose(at, u, qr[t - self.first], keys, seen, t, freqs)
            values = torch.stack(self.in_window(at, window, t) + [entries[i] for i in seen])
            scores = q @ values.T * dim**-0.5
            top = scores.amax(1, keepdim=True)
            weights = torch.exp(scores - top)
            total = weights.sum(1) + torch.exp(w[f"{at}attn_sink"] - top[:, 0])
            o = r.activation(r.probability(weights) @ values / total[:, None])
            o = r.operand_of_wo_a(r.activation(turn(o, -t, freqs)))
            low = torch.cat(
                [
                    block @ group.flatten()
                    for block, group in zip(
                        w[f"{at}wo_a.weight"].chunk(c.o_groups), o.chunk(c.o_groups), strict=True
                    )
                ]
            )
            out.append(self.linear(f"{at}wo_b.weight", r.activation(low)))
        return out

    def window_entry(self, at, u, t, freqs):
        kv = self.norm(self.linear(f"{at}wkv.weight", u), f"{at}kv_norm.weight")
        return self.round.entry(self.round.activation(turn(kv, t, freqs)))

    def in_window(self, at, window, t):
        return window[max(0, t - self.config.sliding_window + 1) : t + 1]

    def compress(self, at, kind, m, dim, inputs, freqs):
        w, entries = self.w, []
        for i in range(len(inputs) // m):
            scores, values = [], []
            for first, half in ((m * (i - 1), 0), (m * i, 1)) if kind == "CSA" else ((m * i, 0),):
                if first < 0:
                    continue
                at_half = slice(half * dim, (half + 1) * dim)
                for j in range(m):
                    u = inputs[first + j]
                    gate = w[f"{at}wgate.weight"] @ u + w[f"{at}ape"][j]
                    scores.append(gate[at_half])
                    values.append((w[f"{at}wkv.weight"] @ u)[at_half])
            pooled = (torch.stack(scores).softmax(0) * torch.stack(values)).sum(0)
            entry = self.norm(pooled, f"{at}norm.weight")
            entries.append(self.round.activation(turn(entry, m * i, freqs)))
        return entries

    def choose(self, at, u, qr, keys, seen, t, freqs):
        c, w = self.config, self.w
        r = self.round
        q = self.linear(f"{at}indexer.wq_b.weight", qr).view(c.index_n_heads, c.index_head_dim)
        q = r.key(r.activation(turn(q, t, freqs)))
        weights = r.activation(w[f"{at}indexer.weights_proj.weight"] @ u)
        weights = r.index_weight(weights * (c.index_head_dim * c.index_n_heads) ** -0.5)
        scores = {s: float(r.score((weights * (q @ keys[s]).clamp(min=0)).sum())) for s in seen}
        return sorted(seen, key=lambda s: (scores[s], s), reverse=True)[: c.index_topk]

    def moe(self, at, layer, x, token):
        c, w = self.config, self.w
        s = torch.log1p(torch.exp(w[f"{at}gate.weight"] @ x)).sqrt()
        if c.is_hashed(layer):
            chosen = w[f"{at}gate.tid2eid"][token].tolist()
        else:
            chosen = (s + w[f"{at}gate.bias"]).topk(c.num_experts_per_tok).indices.tolist()
        total = sum(s[e] for e in chosen)
        out = self.expert(x, *(w[f"{at}shared_experts.w{n}.weight"] for n in (1, 2, 3)), 1.0)
        for e in chosen:
            p = c.routed_scaling_factor * s[e] / total
            out = out + self.expert(x, *(w[f"{at}experts.w{n}"][e] for n in (1, 2, 3)), p)
        return self.round.activation(out)

    def expert(self, x, w1, w2, w3, p):
        limit, r = self.config.swiglu_limit, self.round
        x = r.operand(x)
        a, b = (w1 @ x).clamp(max=limit), (w3 @ x).clamp(-limit, limit)
        return w2 @ r.operand(r.activation(p * a * torch.sigmoid(a) * b))


class DSparkReference(Reference):
    """The block draft: every row sees the context of the target layers and the whole block."""

    def main_hidden(self, ids):
        """[n, T·d]: the mean of the streams after each target layer."""
        rows = [self.w["embed.weight"][i].repeat(self.config.hc_mult, 1) for i in ids]
        means = []
        for layer in range(self.config.num_hidden_layers):
            rows = self.block(f"layers.{layer}.", layer, rows, ids)
            if layer in self.config.dspark_target_layer_ids:
                means.append(torch.stack([self.round.activation(x.mean(0)) for x in rows]))
        return torch.cat(means, -1)

    def draft(self, main_hidden, anchor):
        """main_hidden [p, T·d] of the tokens before the anchor → tokens [B], chosen greedily, their
        logits [B, V] and confidence [B]."""
        c, w = self.config, self.w
        stages = [f"mtp.{n}." for n in range(len(c.compress_ratios) - c.num_hidden_layers)]
        main_x = [self.linear("mtp.0.main_proj.weight", x) for x in main_hidden]
        main_x = [self.norm(x, "mtp.0.main_norm.weight") for x in main_x]
        freqs = frequencies(c, c.num_hidden_layers)
        self.context = {
            f"{at}attn.": [
                self.window_entry(f"{at}attn.", x, t, freqs) for t, x in enumerate(main_x)
            ]
            for at in stages
        }
        ids = [anchor] + [c.dspark_noise_token_id] * (c.dspark_block_size - 1)
        self.first = len(main_x)
        rows = [w["embed.weight"][i].repeat(c.hc_mult, 1) for i in ids]
        for number, at in enumerate(stages):
            rows = self.block(at, c.num_hidden_layers + number, rows, ids)
        token, found = anchor, []
        for x in rows:
            hidden = self.round.activation(self.fold(stages[-1], x))
            embedded = w[f"{stages[-1]}markov_head.markov_w1.weight"][token]
            logits = w["head.weight"] @ self.norm(hidden, f"{stages[-1]}norm.weight")
            logits = logits + w[f"{stages[-1]}markov_head.markov_w2.weight"] @ embedded
            sure = w[f"{stages[-1]}confidence_head.proj.weight"][0] @ torch.cat((hidden, embedded))
            token = int(logits.argmax())
            found.append((torch.tensor(token), logits, sure))
        return [torch.stack(part) for part in zip(*found, strict=True)]

    def in_window(self, at, window, t):
        if at not in getattr(self, "context", {}):
            return super().in_window(at, window, t)
        return self.context[at][-self.config.sliding_window :] + window
