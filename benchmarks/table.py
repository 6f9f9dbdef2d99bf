"""Write the documents' figures from benchmarks/results and from the packaged model.

python benchmarks/table.py            # rewrite the marked parts of the documents
"""

from __future__ import annotations

import json
from pathlib import Path

from dsv4 import Config
from dsv4.checkpoint.load import packaged

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def speed() -> str:
    """The table of benchmarks/peers.py's last run."""
    report = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))
    lines = [
        f"Shape `{report['shape']}`, {report['dtype']}, {report['machine']}; tokens/s, medians of "
        f"{report['rounds']} alternating rounds (`benchmarks/peers.py`):",
        "",
        "| | dsv4 | transformers | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['what']} | {row['dsv4']:,.0f} | {row['transformers']:,.0f} "
            f"| {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def training() -> str:
    """The table of benchmarks/training.py's last run, where there was one."""
    file = RESULTS / "training.json"
    if not file.exists():
        return ""
    report = json.loads(file.read_text(encoding="utf-8"))
    rounds = report["rounds"]
    of = "one round" if rounds == 1 else f"medians of {rounds} alternating rounds"
    lines = [
        f"Training, shape `{report['shape']}`, {report['machine']}; tokens/s, and times "
        f"transformers', {of}; peak MiB of a process of its own; the bound is that of torch's "
        "float32 matrix products (`benchmarks/training.py`):",
        "",
        "| | transformers | float32 | mixed | bound | MiB | float32 | mixed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        rates = (f"{row[s]:,.0f} (×{row[f'{s} ratio']:.1f})" for s in ("float32", "mixed"))
        peaks = (f"{row[f'{s} MiB']:,.0f}" for s in ("transformers", "float32", "mixed"))
        cells = (f"{row['transformers']:,.0f}", *rates, f"{row['bound']:,.0f}", *peaks)
        lines.append(f"| {row['what']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


ABLATIONS = {
    "base": "base: Muon, mHC, CSA and HCA, hash routing, MTP",
    "adamw": "AdamW moves everything",
    "one_stream": "one stream in place of mHC's four",
    "full_attention": "full attention in place of CSA and HCA",
    "learned_routing": "no hash routing",
    "no_mtp": "no MTP",
}


def ablations() -> str:
    """The table of benchmarks/ablate.py's last run, where there was one."""
    file = RESULTS / "ablations.json"
    if not file.exists():
        return ""
    report = json.loads(file.read_text(encoding="utf-8"))
    lines = [
        "| | rate | bits a byte | from base | steps to AdamW's end | tokens a processor second "
        "| peak MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report["rows"].items():
        reached, last = row["steps_to_adamw"], row["curve"][-1][0]
        if name == "adamw":
            reached = last
        steps = "never" if reached is None else f"{reached:.0f} of {last}"
        lines.append(
            f"| {ABLATIONS[name]} | {row['lr']:g} "
            f"| {row['bits_per_byte']:.3f} ± {row['spread']:.3f} "
            f"| {row['from_base']:+.3f} ± {row['from_base_spread']:.3f} | {steps} "
            f"| {report['tokens'] / row['cpu_seconds']:,.0f} | {row['peak_mib']:,.0f} |"
        )
    tried: dict[str, list[str]] = {}
    for name, bits in report["rates"].items():
        recipe, rate, _ = name.split("-")
        tried.setdefault(recipe, []).append(f"{rate}: {bits:.3f}")
    lines += [
        "",
        "Rates tried with seed 0: "
        + "; ".join(
            f"{'Muon' if recipe == 'base' else 'AdamW'} {', '.join(each)}"
            for recipe, each in tried.items()
        )
        + ".",
    ]
    return "\n".join(lines)


def protocol() -> str:
    """The tables of benchmarks/protocol.py's last run."""
    report = json.loads((RESULTS / "protocol.json").read_text(encoding="utf-8"))
    ms = {row["what"]: row["ms"] for row in report["rows"]}
    lines = [
        f"{report['machine']}; least of {report['rounds']} rounds (`benchmarks/protocol.py`):",
        "",
        "| | dsv4 | peer |",
        "| --- | --- | --- |",
    ]
    names = {
        "request": "JSON chat request of 200 turns with a call each to prompt",
        "render": "prompt of that request, once read",
    }
    for what, name in names.items():
        peer = ms.get(f"recipe {what} 200 turns")
        other = "" if peer is None else f"{peer:.1f} ms (deepseek-recipe, native code)"
        lines.append(f"| {name} | {ms[f'{what} 200 turns']:.1f} ms | {other} |")
    for what in (name for name in ms if name.startswith("encode")):
        peer = ms.get(what.replace("encode", "vLLM"))
        other = "" if peer is None else f"{peer:.1f} ms (vLLM's encoder)"
        lines.append(f"| `encode_messages`, {what[7:]} | {ms[what]:.1f} ms | {other} |")
    for row in report["rows"]:
        if row["us_per_piece"] is not None:
            mode, length = row["what"].split()
            cost = f"{row['us_per_piece']:.1f} µs a piece"
            lines.append(f"| stream {int(length):,} characters by fours, {mode} | {cost} | |")
    return "\n".join(lines)


def llama_cpp() -> str:
    """The tables of benchmarks/llama_cpp.py's last runs, one for each shape that was measured."""
    lines = []
    for file in sorted(RESULTS.glob("llama_cpp_*.json")):
        report = json.loads(file.read_text(encoding="utf-8"))
        copied = ", weights copied into memory" if report["copy"] else ", weights mapped"
        lines += [
            f"Shape `{report['shape']}`, packed{copied}, {report['machine']}; llama-bench "
            f"`{report['llama.cpp']}`; tokens/s and peak MiB, medians of alternating rounds, the "
            "ratio's too (`benchmarks/llama_cpp.py`):",
            "",
            "| | dsv4 | llama.cpp | ratio | bound | dsv4 MiB | llama.cpp MiB |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in report["rows"]:
            lines.append(
                f"| {row['what']} | {row['dsv4']:,.0f} | {row['llama.cpp']:,.0f} "
                f"| {row['ratio']:.2f} | {row['bound']:,.0f} | {row['dsv4 MiB']:,.0f} "
                f"| {row['llama.cpp MiB']:,.0f} |"
            )
        lines.append("")
    return "\n".join(lines[:-1])


def batch() -> str:
    """The table of benchmarks/batch.py's last run, where there was one."""
    file = RESULTS / "batch.json"
    if not file.exists():
        return ""
    report = json.loads(file.read_text(encoding="utf-8"))
    contexts = sorted({row["context"] for row in report["rows"]})
    mixed = report["mixed ms"]
    lines = [
        f"Shape `{report['shape']}`, packed, {report['machine']}; tokens/s of sequences that are "
        "decoded together at ragged lengths up to the stated one, and what that is of one "
        f"sequence's; medians of {report['rounds']} alternating rounds (`benchmarks/batch.py`):",
        "",
        "| sequences | " + " | ".join(f"after {context}" for context in contexts) + " |",
        "| --- |" + " --- |" * len(contexts),
    ]
    for count in sorted({row["sequences"] for row in report["rows"]}):
        found = {row["context"]: row for row in report["rows"] if row["sequences"] == count}
        cells = (f"{found[c]['tokens/s']:,.0f} (×{found[c]['ratio']:.2f})" for c in contexts)
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"A prompt of 512 tokens takes {mixed['prefill']:.0f} ms, a step of seven other sequences "
        f"{mixed['decode']:.1f}, both in one call {mixed['together']:.0f}.",
    ]
    return "\n".join(lines)


def load() -> str:
    """The tables of benchmarks/load.py's last runs, one for each shape that was measured."""
    lines = []
    for file in sorted(RESULTS.glob("load_*.json")):
        report = json.loads(file.read_text(encoding="utf-8"))
        lines += [
            f"Shape `{report['shape']}`, {report['machine']}; llama-server "
            f"`{report['llama.cpp']}`; {report['prompt']} tokens in, {report['reply']} out, "
            "streamed; generated tokens/s, medians of "
            f"{report['rounds']} alternating rounds, the ratio's too; milliseconds until the "
            "first token, median and 99th percentile (`benchmarks/load.py`):",
            "",
            "| | dsv4 | llama.cpp | ratio | dsv4, first token | llama.cpp, first token |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in report["rows"]:
            name = f"{row['clients']} client{'s' * (row['clients'] > 1)}, {row['sampling']}"
            ours, theirs = row["dsv4"], row["llama.cpp"]
            lines.append(
                f"| {name} | {ours['tokens/s']:,.0f} | {theirs['tokens/s']:,.0f} "
                f"| {row['ratio']:.2f} | "
                + " | ".join(
                    f"{side['first ms p50']:,.0f} / {side['first ms p99']:,.0f}"
                    for side in (ours, theirs)
                )
                + " |"
            )
        lines.append("")
    return "\n".join(lines[:-1])


def long() -> str:
    """The table of benchmarks/long.py's last run, where there was one."""
    file = RESULTS / "long.json"
    if not file.exists():
        return ""
    report = json.loads(file.read_text(encoding="utf-8"))
    lines = [
        f"One sequence of `{report['checkpoint']}`, {report['machine']}; decoding beside one "
        f"of {report['rows'][0]['tokens']:,} tokens, medians of {report['rounds']} alternating "
        "rounds; cache in MiB as counted (entries, indexer keys, and windows and tails), and what "
        "of it a step reads (`benchmarks/long.py`):",
        "",
        "| tokens | prefill of the stretch, s | tokens/s | decode, tokens/s | of the first's "
        "| entries | keys | fixed | read a step | peak resident |",
        "| --- |" + " --- |" * 9,
    ]
    for row in report["rows"]:
        mib = {name: row[name] / 2**20 for name in ("entries", "keys", "fixed", "read a step")}
        lines.append(
            f"| {row['tokens']:,} | {row['seconds']:.1f} | {row['prefill']:,.0f} "
            f"| {row['decode']:,.0f} | ×{row['ratio']:.2f} | {mib['entries']:.1f} "
            f"| {mib['keys']:.1f} | {mib['fixed']:.2f} | {mib['read a step']:.1f} "
            f"| {row['peak'] / 2**20:,.0f} |"
        )
    return "\n".join(lines)


def resident() -> str:
    """The table of benchmarks/resident.py's last run."""
    report = json.loads((RESULTS / "resident.json").read_text(encoding="utf-8"))
    lines = [
        f"{report['layers']} layers of V4-Flash's shapes, {report['experts GiB']:.1f} GiB of "
        f"routed experts, random weights, 8,192 words; {report['machine']}; tokens/s of a "
        f"prefill of {report['prompt']} tokens and of {report['steps']} steps after it "
        "(`benchmarks/resident.py`):",
        "",
        "| cap | peak resident MiB | prefill | decode | prefill from disk | decode from disk "
        "| tokens and logits |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['cap']} | {row['peak MiB']:,.0f} | {row['prefill']:.1f} | {row['decode']:.1f} "
            f"| {row['prefill from disk']:.1f} | {row['decode from disk']:.1f} "
            f"| {'the same' if row['same'] else 'DIFFER'} |"
        )
    return "\n".join(lines)


def speculate() -> str:
    """The table of benchmarks/speculate.py's last run."""
    report = json.loads((RESULTS / "speculate.json").read_text(encoding="utf-8"))
    us = report["parts_us"]
    lines = [
        f"`{report['checkpoint']}` in the engine, one sequence, {report['tokens']} tokens, "
        f"{report['machine']}; µs of processor time a token, medians of {report['rounds']} "
        "alternating rounds, drafting forced (`benchmarks/speculate.py`):",
        "",
        "| | steps with a draft | drafts that stand | without drafts | with drafts | speed "
        "| limit of the operators |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        without, with_drafts = row["us_a_token"]["processor"]
        name = "greedy" if row["temperature"] == 0 else f"temperature {row['temperature']:g}"
        if row["confidence"]:
            name += f", from confidence {row['confidence']:g} on"
        lines.append(
            f"| {name} | {row['verified']:.0%} "
            f"| {row['accepted']:.0%} | {without:,.0f} | {with_drafts:,.0f} "
            f"| ×{row['ratio']['processor']:.2f} | ×{row['limit']:.2f} |"
        )
    one, two = us["forward 1"] + us["head 1"], us["forward 2"] + us["head 2"]
    draft = us["draft 1"] + us["draft head"]
    lines += [
        "",
        f"One token costs {one:.0f} µs of native operators (head {us['head 1']:.0f}), two that are "
        f"verified together {two:.0f}, a draft {draft:.0f} (head {us['draft head']:.0f}): a step "
        f"with drafts takes {(two + draft) / one:.2f} times one without, and would be "
        f"×{2 * one / (two + draft):.2f} if every draft stood.",
    ]
    return "\n".join(lines)


def policies() -> str:
    """The table of benchmarks/policies.py's last run."""
    report = json.loads((RESULTS / "policies.json").read_text(encoding="utf-8"))
    lines = [
        f"`nano`, a prompt of {report['tokens']:,} tokens, then {report['edits']} prompts that "
        f"leave it at random places, {report['machine']} (`benchmarks/policies.py`):",
        "",
        "| policy | bytes a token: entries | states | files | known tokens read again | at most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report["policies"].items():
        sizes = " | ".join(
            f"{row[key]:,.0f}" for key in ("page_bytes", "state_bytes", "file_bytes")
        )
        lines.append(f"| {name} | {sizes} | {row['again']:,.0f} | {row['most']:,} |")
    return "\n".join(lines)


def modes() -> str:
    """The table of benchmarks/modes.py's last run."""
    report = json.loads((RESULTS / "modes.json").read_text(encoding="utf-8"))
    lines = [
        f"Against the dequantised model, {report['tokens']:,} tokens that nano drew itself "
        "(`benchmarks/modes.py`):",
        "",
        "| | logits' relative error, median | largest | same likeliest token | KL |",
        "| --- | --- | --- | --- | --- |",
    ]
    for mode in ("fast", "exact"):
        row = report["modes"][mode]
        lines.append(
            f"| {mode} | {row['median_error']:.1%} | {row['largest_error']:.0%} "
            f"| {row['same_token']:.1%} | {row['kl']:.4f} |"
        )
    return "\n".join(lines)


def nano() -> str:
    """Size and training of the packaged model."""
    config = Config.load(packaged())
    info = json.loads((packaged() / "training.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in packaged().iterdir()) / 1e6
    lines = [
        f"`nano` has {info['parameters'] / 1e6:.1f}M parameters ({config.num_hidden_layers} layers "
        f"and an MTP block, {config.n_routed_experts} experts, {config.vocab_size:,} tokens) and "
        f"takes {size:.0f} MB in the released FP8 + FP4 layout. It saw "
        f"{info['tokens'] / 1e6:.1f}M tokens of open text in {info['minutes']:.0f} minutes on two "
        f"cores (`benchmarks/nano.py`). Bits a byte of text that it did not see, "
        f"{info['bits_per_byte']:.3f} of all before rounding and "
        f"{info['released_bits_per_byte']:.3f} as shipped, of each source as shipped:",
        "",
        ", ".join(f"{name} {shipped:.2f}" for name, (_, shipped) in info["texts"].items()) + ".",
    ]
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the markers."""
    parts = (
        ("README.md", "speed", speed),
        ("README.md", "training", training),
        ("README.md", "llama.cpp", llama_cpp),
        ("README.md", "batch", batch),
        ("README.md", "load", load),
        ("README.md", "long", long),
        ("README.md", "nano", nano),
        ("docs/architecture.md", "modes", modes),
        ("docs/architecture.md", "resident", resident),
        ("docs/engine.md", "policies", policies),
        ("docs/engine.md", "speculate", speculate),
        ("docs/training.md", "ablations", ablations),
        ("docs/protocol.md", "protocol", protocol),
    )
    for file, name, make in parts:
        text = (ROOT / file).read_text(encoding="utf-8")
        begin = f"<!-- {name}: written by benchmarks/table.py -->"
        end = f"<!-- end of {name} -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{make()}\n{end}{rest.split(end)[1]}"
        (ROOT / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
