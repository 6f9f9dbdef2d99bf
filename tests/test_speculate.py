"""Speculative decoding is lossless: the same tokens when greedy, the same distribution when not."""

import copy

import pytest
import torch
from drafts import DSPARK

import dsv4
from dsv4.generation import prefill
from dsv4.model.draft import Proposal
from dsv4.sampling import Sampling, probabilities, sample
from dsv4.speculate import drafter, step, token_ids

SHORT = DSPARK | {"max_position_embeddings": 64}
GREEDY = Sampling(temperature=0, max_tokens=24)


def speculated(model, prompts, sampling, threshold=0.0, guide=None):
    """Ids of each prompt with drafts, EOS left out, and how many drafts stood at each step."""
    cache, drafts = model.new_cache(len(prompts)), drafter(model, len(prompts))
    if guide is not None:
        drafts = guide(drafts)
    logits = prefill(model, prompts, cache, read=drafts.read)
    ids = [[] for _ in prompts]
    for tokens in token_ids(model, logits, cache, drafts, sampling, threshold):
        for one, new in zip(ids, tokens, strict=True):
            one += new
    end = model.config.eos_token_id
    return [one[:-1] if one[-1] == end else one for one in ids]


class Knows:
    """A drafter that proposes what it is told, right or wrong, and otherwise reads along."""

    def __init__(self, inner, truths, wrong):
        self.inner, self.most, self.truths, self.wrong = inner, inner.most, truths, wrong
        self.seen = [0] * len(truths)

    def read(self, ids, streams, targets, lengths):
        self.inner.read(ids, streams, targets, lengths)
        self.seen = [n + new for n, new in zip(self.seen, lengths, strict=True)]

    def propose(self, anchors, choose):
        made = self.inner.propose(anchors, choose)
        rows = []
        for b, truth in enumerate(self.truths):
            row = (truth[self.seen[b] + 1 :] + [0] * self.most)[: self.most]
            rows.append([t + (j == self.wrong) for j, t in enumerate(row)])
        return Proposal(torch.tensor(rows), made.logits, made.confidence)


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, 97, (n,), generator=generator).tolist() for n in (1, 7, 19)]


@pytest.fixture(scope="module", params=["dspark", "mtp"])
def model(request, make_model):
    return make_model(**(SHORT if request.param == "dspark" else {})).cpu()


# ---- greedy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_greedy_output_is_plain_greedy_output(model, prompts, threshold):
    plain = [one.ids for one in dsv4.generate(model, prompts, sampling=GREEDY)]
    assert speculated(model, prompts, GREEDY, threshold) == plain
    for prompt, expected in zip(prompts, plain, strict=True):
        assert speculated(model, [prompt], GREEDY, threshold) == [expected]


@pytest.mark.parametrize("wrong", [0, 2, 9])
def test_drafts_that_stand_and_that_fall(make_model, prompts, wrong):
    """A drafter that knows the continuation up to one token: what stands is as long as that."""
    model = make_model(**SHORT).cpu()
    plain = [one.ids for one in dsv4.generate(model, prompts, sampling=GREEDY)]
    truths = [p + ids for p, ids in zip(prompts, plain, strict=True)]
    kept = []

    def guide(inner):
        kept.append(Knows(inner, truths, wrong))
        return kept[0]

    assert speculated(model, prompts, GREEDY, guide=guide) == plain
    assert all(seen >= len(p) for seen, p in zip(kept[0].seen, prompts, strict=True))


def test_a_step_says_what_stood(make_model, prompts):
    model = make_model(**SHORT).cpu()
    plain = [one.ids for one in dsv4.generate(model, prompts, sampling=GREEDY)]
    truths = [p + ids for p, ids in zip(prompts, plain, strict=True)]
    cache, generators = model.new_cache(3), [Sampling().generator()] * 3
    knows = Knows(drafter(model, 3), truths, wrong=2)
    logits = prefill(model, prompts, cache, read=knows.read)
    anchors = logits.argmax(-1).tolist()
    assert anchors == [ids[0] for ids in plain]
    before = list(cache.lengths)
    done = step(model, cache, knows, anchors, [4, 1, None], [GREEDY] * 3, generators)
    assert done.verified == [4, 1, 0] and done.accepted == [2, 1, 0]
    assert done.ids == [plain[0][1:4], plain[1][1:3], []]
    assert cache.lengths == [before[0] + 3, before[1] + 2, before[2]]
    assert knows.inner.cache.lengths == cache.lengths
    # both caches stand as if nothing had been drafted
    again = step(
        model,
        cache,
        knows.inner,
        [done.ids[0][-1], done.ids[1][-1], anchors[2]],
        [0, 0, 0],
        [GREEDY] * 3,
        generators,
    )
    assert again.ids == [[plain[0][4]], [plain[1][3]], [plain[2][1]]]


def test_the_drafts_cache_after_a_step_is_that_of_a_fresh_prompt(model, prompts):
    """Whatever was accepted: the next proposal equals the one after reading all tokens anew."""
    cache, drafts = model.new_cache(3), drafter(model, 3)
    logits = prefill(model, prompts, cache, read=drafts.read)
    anchors, ids = logits.argmax(-1).tolist(), [list(p) for p in prompts]
    for most in ([4, 2, 0], [1, None, 4]):
        done = step(model, cache, drafts, anchors, most, [GREEDY] * 3, [Sampling().generator()] * 3)
        for b, new in enumerate(done.ids):
            if new:
                ids[b] += [anchors[b], *new[:-1]]
                anchors[b] = new[-1]
    ours = drafts.propose(torch.tensor(anchors), lambda logits: logits.argmax(-1))
    fresh_cache, fresh = model.new_cache(3), drafter(model, 3)
    prefill(model, ids, fresh_cache, read=fresh.read)
    theirs = fresh.propose(torch.tensor(anchors), lambda logits: logits.argmax(-1))
    assert fresh_cache.lengths == cache.lengths and fresh.cache.lengths == drafts.cache.lengths
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-4)


def test_an_mtp_block_runs_each_row_once(make_model, prompts, monkeypatch):
    model, rows = make_model(max_position_embeddings=64).cpu(), []
    run = model.draft_streams

    def counted(streams, ids, cache, lengths):
        rows.extend(lengths)
        return run(streams, ids, cache, lengths)

    monkeypatch.setattr(model, "draft_streams", counted)
    plain = [one.ids for one in dsv4.generate(model, prompts, sampling=GREEDY)]
    truths = [p + ids for p, ids in zip(prompts, plain, strict=True)]
    for wrong in (0, 9):  # every draft falls; every draft stands
        cache, drafts = model.new_cache(3), Knows(drafter(model, 3), truths, wrong)
        logits = prefill(model, prompts, cache, read=drafts.read)
        anchors, generators = logits.argmax(-1).tolist(), [Sampling().generator()] * 3
        for _ in range(4):
            done = step(model, cache, drafts, anchors, [1, 1, 1], [GREEDY] * 3, generators)
            assert done.accepted == [int(wrong > 0)] * 3
            anchors = [ids[-1] for ids in done.ids]
        drafts.inner.propose(torch.tensor(anchors), lambda logits: logits.argmax(-1))
        assert sum(rows) == sum(drafts.inner.cache.lengths) + 3  # the anchors' are not counted yet
        rows.clear()


def test_limits(make_model, prompts):
    """max_tokens, the end of the context and EOS end a sequence where they end plain decoding."""
    model = make_model(**SHORT).cpu()
    for sampling in (Sampling(temperature=0, max_tokens=n) for n in (1, 2, 5, 300)):
        plain = [one.ids for one in dsv4.generate(model, prompts, sampling=sampling)]
        assert speculated(model, prompts, sampling) == plain
    assert max(len(p) + len(i) for p, i in zip(prompts, plain, strict=True)) == 65
    ends = make_model(**SHORT, eos_token_id=plain[0][3]).cpu()
    cut = [one.ids for one in dsv4.generate(ends, prompts, sampling=GREEDY)]
    truths = [p + i for p, i in zip(prompts, plain, strict=True)]
    assert speculated(ends, prompts, GREEDY, guide=lambda d: Knows(d, truths, 9)) == cut
    assert cut[0] == plain[0][: plain[0].index(plain[0][3])]


def test_a_model_without_a_draft(make_model):
    plain = make_model(num_nextn_predict_layers=0, compress_ratios=[0, 4, 128, 4, 128])
    with pytest.raises(ValueError, match="has no draft"):
        drafter(plain, 1)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_greedy_on_native_packed_models_is_bit_equal(mode, dspark_folder):
    model = dsv4.load(dspark_folder, mode=mode)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 8000, (n,), generator=generator).tolist() for n in (1, 40, 150)]
    plain = [one.ids for one in dsv4.generate(model, prompts, sampling=GREEDY)]
    assert speculated(model, prompts, GREEDY) == plain
    truths = [p + ids for p, ids in zip(prompts, plain, strict=True)]
    assert speculated(model, prompts, GREEDY, guide=lambda d: Knows(d, truths, 3)) == plain


# ---- sampled ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(seed=1), Sampling(seed=1, temperature=0.7, top_k=4)])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_sampled_tokens_are_distributed_as_without_drafts(make_model, threshold, sampling):
    """χ² over the next two tokens of 2,000 sequences at one prompt, and one that shows the test's
    power: the draft's own distribution fails it."""
    sizes = {"vocab_size": 6, "dspark_noise_token_id": 5, "n_routed_experts": 4}
    model = make_model(**(SHORT | sizes), spread=0.3).cpu()
    last = model.mtp[-1]
    with torch.no_grad():  # tokens 4 and 5 are followed by no draft that is confident enough
        wanted = torch.tensor([2.0, 2, 2, 2, -2, -2]).unsqueeze(1)
        weight = torch.linalg.solve(last.markov_head.markov_w1.weight, wanted)
        last.confidence_head.proj.weight.copy_(torch.cat((torch.zeros(1, 64), weight.T), dim=1))
    prompt, n, v = [2, 4, 1], 2_000, 6
    cache, drafts = model.new_cache(n), drafter(model, n)
    prefill(model, [prompt] * n, cache, read=drafts.read)
    anchors = [3] * n
    generators = [sampling.generator(b) for b in range(n)]
    samplings = [sampling] * n
    q = drafts.propose(torch.tensor(anchors), lambda logits: logits.argmax(-1)).logits[0, 0]
    done = step(model, cache, drafts, anchors, [2] * n, samplings, generators, threshold)
    seen, verified = torch.zeros(v, v, dtype=torch.float64), set(done.verified)
    rest = [b for b, ids in enumerate(done.ids) if len(ids) < 2]
    most = [0 if b in set(rest) else None for b in range(n)]
    anchors = [ids[-1] for ids in done.ids]
    more = step(model, cache, drafts, anchors, most, samplings, generators) if rest else None
    for b, ids in enumerate(done.ids):
        both = ids if len(ids) > 1 else ids + more.ids[b]
        seen[both[0], both[1]] += 1
    assert 0 < len(rest) < n and verified == ({2} if threshold == 0 else {1, 2})
    with torch.no_grad():
        rows = model(torch.tensor([[*prompt, 3, t] for t in range(v)]))
    first = probabilities(rows[0, 3:4], [sampling])[0].double()
    expected = n * torch.stack(
        [first[t] * probabilities(rows[t, 4:5], [sampling])[0].double() for t in range(v)]
    )
    assert seen[expected < 1e-9].sum() == 0
    large = expected >= 5  # the others are one cell
    cells = [torch.cat((x[large], x[~large].sum().view(1))) for x in (seen, expected)]
    chi = ((cells[0] - cells[1]) ** 2 / cells[1].clamp(min=1e-9)).sum()
    degrees = len(cells[0]) - 1
    bound = degrees + 4 * (2 * degrees) ** 0.5  # beyond four standard deviations
    assert chi < bound
    other = n * probabilities(q.unsqueeze(0), [sampling])[0].double()
    marginal = seen.sum(1)
    held = other > 5
    assert ((marginal - other) ** 2 / other)[held].sum() > bound


def test_a_seed_repeats_and_neighbours_do_not_matter(make_model, prompts):
    model, sampling = make_model(**SHORT).cpu(), Sampling(seed=5, max_tokens=12)
    assert speculated(model, prompts, sampling) == speculated(model, prompts, sampling)


MIXED = [
    Sampling(seed=1),
    Sampling(temperature=0),
    Sampling(seed=2, temperature=0.7, top_k=9),
    Sampling(seed=3, top_p=0.8),
]


@pytest.mark.parametrize("most", [[4, 4, 2, None], [0, 3, 0, 0], [1, 0, None, 2]])
def test_a_sequence_steps_alike_alone_and_in_a_batch(most, dspark_folder):
    """Its tokens, what stood, and how many random numbers were spent on it."""
    model = dsv4.load(dspark_folder)
    if model.twin is None:
        pytest.skip("a batch of plain operators equals its sequences within rounding only")
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(3, 8000, (n,), generator=generator).tolist() for n in (9, 1, 30, 4)]

    def steps(some):
        cache, drafts = model.new_cache(len(some)), drafter(model, len(some))
        generators = [MIXED[b].generator(b) for b in some]
        logits = prefill(model, [prompts[b] for b in some], cache, read=drafts.read)
        anchors, found = logits.argmax(-1).tolist(), []
        for _ in range(2):
            done = step(
                model,
                cache,
                drafts,
                anchors,
                [most[b] for b in some],
                [MIXED[b] for b in some],
                generators,
            )
            anchors = [ids[-1] if ids else a for ids, a in zip(done.ids, anchors, strict=True)]
            found.append(list(zip(done.ids, done.verified, done.accepted, strict=True)))
        return found, [each.random() for each in generators]

    together, left = steps(range(4))
    for b in range(4):
        alone, number = steps([b])
        assert alone == [[row[b]] for row in together]
        assert MIXED[b].greedy or number == [left[b]]


def test_nothing_is_drafted_that_nobody_may_use(model, prompts):
    cache, drafts = model.new_cache(3), drafter(model, 3)
    logits = prefill(model, prompts, cache, read=drafts.read)
    anchors, samplings = logits.argmax(-1).tolist(), [GREEDY, Sampling(seed=1), GREEDY]
    with torch.no_grad():
        rows = model(logits.argmax(-1, keepdim=True), copy.deepcopy(cache))
    proposed = []
    drafts.propose = lambda *arguments: proposed.append(arguments)
    generators = [sampling.generator() for sampling in samplings]
    done = step(model, cache, drafts, anchors, [0, 0, None], samplings, generators)
    assert not proposed and done.verified == done.accepted == [0, 0, 0]
    drawn = sample(rows[1], [samplings[1]], [samplings[1].generator()])
    assert done.ids == [[rows[0, 0].argmax().item()], drawn, []]
